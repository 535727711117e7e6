/** A job as the worker shows it. */

import type { JobRequest } from "./request.ts";

export type Status = "queued" | "running" | "completed" | "failed" | "cancelled";

export interface ImageInfo {
  index: number;
  /** Relative to the worker. */
  url: string;
  seed: number;
  width: number;
  height: number;
  format: "png" | "webp" | "jpeg";
  bytes: number;
}

/** Seconds by phase; null for what was not reached. */
export interface Timings {
  queue_s: number | null;
  encode_s: number | null;
  denoise_s: number | null;
  decode_s: number | null;
  total_s: number | null;
}

export interface Job {
  job_id: string;
  sse_url: string;
  status: Status;
  /** Waiting jobs ahead; null when the job does not wait. */
  position: number | null;
  eta_s: number | null;
  progress: { step: number; steps: number; percent: number };
  /** Everything that decides the pictures, with the seed used; input pictures are replaced by their size. */
  params: Omit<JobRequest, "image" | "mask"> & {
    task: string;
    width: number;
    height: number;
    steps: number;
    guidance_scale: number;
    seed: number;
    num_images: number;
    sampler: string;
  };
  images: ImageInfo[];
  /** What was not done as it was asked, such as a prompt that was cut; known once the job is completed. */
  warnings: string[];
  error: { code: string; message: string; retriable: boolean } | null;
  timings: Timings;
  attempt: number;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  labels: Record<string, string>;
}

/** Whether the job has one of its three endings. */
export function hasEnded(status: Status): boolean {
  return status === "completed" || status === "failed" || status === "cancelled";
}
