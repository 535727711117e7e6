/** The events of a job's stream, as people write them; the OpenAPI document has the same as schemas. */

import type { ImageInfo, Timings } from "./job.ts";

interface Base {
  /** Rises by one from 1 within the job; skips where old previews were dropped. */
  id: number;
  job_id: string;
}

export interface QueuedEvent extends Base {
  type: "queued";
  /** Waiting jobs ahead of this one. */
  position: number;
  eta_s: number | null;
}

export interface StartedEvent extends Base {
  type: "started";
  attempt: number;
}

export interface ProgressEvent extends Base {
  type: "progress";
  step: number;
  steps: number;
  percent: number;
  eta_s: number | null;
}

export interface PreviewEvent extends Base {
  type: "preview";
  step: number;
  steps: number;
  /** Base64. */
  image: string;
  format: "jpeg" | "webp";
  width: number;
  height: number;
}

export interface CompletedEvent extends Base {
  type: "completed";
  images: (ImageInfo & { image?: string })[];
  /** What was not done as it was asked. */
  warnings: string[];
  timings: Timings;
}

export interface FailedEvent extends Base {
  type: "failed";
  code: string;
  message: string;
  retriable: boolean;
}

export interface CancelledEvent extends Base {
  type: "cancelled";
  reason: "requested" | "disconnected" | "timeout" | "shutdown";
}

export type EndEvent = CompletedEvent | FailedEvent | CancelledEvent;
export type JobEvent = QueuedEvent | StartedEvent | ProgressEvent | PreviewEvent | EndEvent;

/** Whether this is the last event of its stream. */
export function isEnd(event: JobEvent): event is EndEvent {
  return event.type === "completed" || event.type === "failed" || event.type === "cancelled";
}
