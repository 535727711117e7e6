/** A job's life as one value that changes: what a page shows of it. The events are folded here and nowhere else. */

import type { Client } from "./client.ts";
import type { JobEvent, PreviewEvent } from "./events.ts";
import { hasEnded, type ImageInfo, type Job, type Status, type Timings } from "./job.ts";
import { pause, untilAnswered } from "./pause.ts";
import { WorkerError } from "./problem.ts";

const POLL_MS = 2000;

export interface JobState {
  jobId: string;
  status: Status;
  /** Waiting jobs ahead; null when the job does not wait. */
  position: number | null;
  etaS: number | null;
  step: number;
  steps: number;
  preview: Pick<PreviewEvent, "image" | "format" | "width" | "height"> | null;
  images: ImageInfo[];
  /** What was not done as it was asked; empty until the job is completed. */
  warnings: string[];
  timings: Timings | null;
  /** Why it failed or was ended by the worker, or that the worker no longer knows it. */
  error: { code: string; message: string } | null;
  /** False while the stream is cut and being made again. */
  connected: boolean;
  /** True once `cancel` was called; false again where the worker refuses. */
  cancelling: boolean;
  lastEventId: number;
  /** Following from here brings the newest preview again and everything behind it. */
  resumeFrom: number;
}

/** As long as nothing is known. */
export function unknownJob(jobId: string): JobState {
  return {
    jobId,
    status: "queued",
    position: null,
    etaS: null,
    step: 0,
    steps: 0,
    preview: null,
    images: [],
    warnings: [],
    timings: null,
    error: null,
    connected: true,
    cancelling: false,
    lastEventId: 0,
    resumeFrom: 0,
  };
}

/** The state as a job that was just fetched has it. */
export function stateOf(job: Job, before: JobState = unknownJob(job.job_id)): JobState {
  return {
    ...before,
    status: job.status,
    position: job.position,
    etaS: job.eta_s,
    step: job.progress.step,
    steps: job.progress.steps,
    images: job.images,
    warnings: job.warnings,
    timings: job.timings,
    error: job.error,
  };
}

/** The state after one more event. */
export function advance(state: JobState, event: JobEvent): JobState {
  const next = { ...state, lastEventId: event.id };
  switch (event.type) {
    case "queued":
      return { ...next, status: "queued", position: event.position, etaS: event.eta_s };
    case "started":
      return { ...next, status: "running", position: null };
    case "progress":
      return { ...next, status: "running", position: null, step: event.step, steps: event.steps, etaS: event.eta_s };
    case "preview":
      return { ...next, preview: event, resumeFrom: event.id - 1 };
    case "completed": {
      const { images, warnings, timings } = event;
      return { ...next, status: "completed", etaS: 0, images, warnings, timings };
    }
    case "failed":
      return { ...next, status: "failed", etaS: null, error: { code: event.code, message: event.message } };
    case "cancelled":
      return { ...next, status: "cancelled", position: null, etaS: null };
  }
}

/** Who may have a stream, where there are fewer of those than jobs. */
export interface Turns {
  /** Whether this job may have one now. While not, the job itself is asked for, and this again, every 2 s. */
  take(job: JobState): Promise<boolean>;
  /** The job needs none any more, whether it had one or not. */
  leave(jobId: string): void;
}

/** Follows one job and tells whoever listens. `getState` gives the same object until something changed. */
export class JobWatch {
  readonly #client: Client;
  readonly #turns: Turns | null;
  readonly #listeners = new Set<() => void>();
  readonly #controller = new AbortController();
  #state: JobState;
  #cancel: Promise<void> | null = null;
  /** Resolves with the last state, once there is one: an ending, a job unknown, or `stop`. */
  readonly ended: Promise<JobState>;

  /**
   * `from`: the job as just posted, or an earlier state of it (`resumeFrom` is honoured), or its id alone. Without
   * `turns` it has a stream at once.
   */
  constructor(client: Client, from: Job | JobState | string, turns: Turns | null = null) {
    this.#client = client;
    this.#turns = turns;
    if (typeof from === "string") this.#state = unknownJob(from);
    else this.#state = "job_id" in from ? stateOf(from) : from;
    this.ended = this.#run();
  }

  get jobId(): string {
    return this.#state.jobId;
  }

  readonly getState = (): JobState => this.#state;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Stops following; the job goes on. */
  stop(): void {
    this.#controller.abort();
  }

  /** Cancels the job, and asks again while no answer comes; the status follows when the worker says so. */
  cancel(): Promise<void> {
    return (this.#cancel ??= this.#askToCancel());
  }

  async #askToCancel(): Promise<void> {
    this.#change({ ...this.#state, cancelling: true });
    try {
      await untilAnswered(() => this.#client.cancel(this.jobId), this.#controller.signal);
    } catch (error) {
      this.#cancel = null;
      this.#change({ ...this.#state, cancelling: false });
      throw error;
    }
  }

  async #run(): Promise<JobState> {
    const { signal } = this.#controller;
    const options = {
      lastEventId: this.#state.resumeFrom,
      onConnection: (connected: boolean) => this.#change({ ...this.#state, connected }),
      signal,
    };
    try {
      while (this.#turns !== null && !(await this.#turns.take(this.#state))) {
        if (hasEnded((await this.#ask(signal)).status)) return this.#state;
        await pause(POLL_MS, signal);
      }
      for await (const event of this.#client.follow(this.jobId, options)) this.#change(advance(this.#state, event));
      // The ending of a stream that has none was seen before.
      if (!hasEnded(this.#state.status)) await this.#ask(signal);
    } catch (error) {
      if (!signal.aborted) this.#change({ ...this.#state, status: "failed", error: described(error) });
    } finally {
      this.#turns?.leave(this.jobId);
    }
    return this.#state;
  }

  /** The state as the job itself has it, once there is an answer. */
  async #ask(signal: AbortSignal): Promise<JobState> {
    const lost = () => this.#change({ ...this.#state, connected: false });
    const job = await untilAnswered(() => this.#client.job(this.jobId, signal), signal, lost);
    this.#change({ ...stateOf(job, this.#state), connected: true });
    return this.#state;
  }

  #change(state: JobState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}

function described(error: unknown): { code: string; message: string } {
  if (error instanceof WorkerError) return { code: error.status === 401 ? "unauthorized" : error.code, message: error.message };
  return { code: "unreachable", message: error instanceof Error ? error.message : "The worker cannot be reached" };
}
