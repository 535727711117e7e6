/** The worker's routes as functions. Knows HTTP; how a stream survives a network is `follow`'s. */

import type { JobEvent } from "./events.ts";
import { isEnd } from "./events.ts";
import { follow, type FollowOptions } from "./follow.ts";
import type { Info, Readiness } from "./info.ts";
import type { Job, Status } from "./job.ts";
import { pause } from "./pause.ts";
import { readProblem, WorkerError } from "./problem.ts";
import type { JobRequest } from "./request.ts";

export interface ClientOptions {
  /** Where the worker is. Default: the page's own origin. */
  baseUrl?: string;
  /** Bearer token; a function is asked before each request. */
  token?: string | (() => string | null | undefined) | null;
  /** In place of the platform's own `fetch`. */
  fetch?: typeof fetch;
}

export interface SubmitOptions {
  /** Posts with the same key and body give the same job. Default: a fresh random key. */
  idempotencyKey?: string;
  /** For how long a full queue, a busy worker or a dead network is tried again. Default: not at all. */
  patienceMs?: number;
  signal?: AbortSignal | undefined;
}

export interface GenerateOptions extends SubmitOptions {
  onJob?: (job: Job) => void;
  onEvent?: (event: JobEvent) => void;
}

const RETRY_MS = 1000;
/** For how long a call that was given up still tries to cancel what it may have begun. */
const WITHDRAW_MS = 5000;

export class Client {
  readonly #base: string;
  readonly #token: NonNullable<ClientOptions["token"]>;
  readonly #fetch: typeof fetch;

  constructor(options: ClientOptions = {}) {
    this.#base = (options.baseUrl ?? "").replace(/\/+$/, "");
    this.#token = options.token ?? (() => null);
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
  }

  /** One request with the token. Throws WorkerError for any answer that is no success. */
  async request(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    const token = typeof this.#token === "function" ? this.#token() : this.#token;
    if (token) headers.set("Authorization", `Bearer ${token}`);
    const response = await this.#fetch(this.#base + path, { ...init, headers });
    if (!response.ok) throw await readProblem(response);
    return response;
  }

  async info(signal?: AbortSignal): Promise<Info> {
    return (await this.request("/v1/info", withSignal(signal))).json();
  }

  /** Also while loading: that is no error. */
  async ready(signal?: AbortSignal): Promise<Readiness> {
    const response = await this.#fetch(`${this.#base}/ready`, withSignal(signal));
    if (response.ok || response.status === 503) return response.json();
    throw await readProblem(response);
  }

  /** Prometheus text. */
  async metrics(signal?: AbortSignal): Promise<string> {
    return (await this.request("/metrics", withSignal(signal))).text();
  }

  /** Posts a job. Throws WorkerError; `retryAfterS` of a 429 says when there may be room. */
  async submit(request: JobRequest, options: SubmitOptions = {}): Promise<Job> {
    const headers = {
      "Content-Type": "application/json",
      "Idempotency-Key": options.idempotencyKey ?? randomKey(),
    };
    const init = { method: "POST", headers, body: JSON.stringify(request), ...withSignal(options.signal) };
    const deadline = Date.now() + (options.patienceMs ?? 0);
    for (;;) {
      try {
        return await (await this.request("/v1/jobs", init)).json();
      } catch (error) {
        if (options.signal?.aborted) throw error;
        if (error instanceof WorkerError && !error.temporary) throw error;
        const waitMs = error instanceof WorkerError && error.retryAfterS !== null ? error.retryAfterS * 1000 : RETRY_MS;
        if (Date.now() + waitMs > deadline) throw error;
        await pause(waitMs, options.signal);
      }
    }
  }

  async job(jobId: string, signal?: AbortSignal): Promise<Job> {
    return (await this.request(`/v1/jobs/${encodeURIComponent(jobId)}`, withSignal(signal))).json();
  }

  /** Newest first; `after` is the `next` of the page before. */
  async jobs(
    query: { limit?: number; after?: string; status?: Status } = {},
    signal?: AbortSignal,
  ): Promise<{ jobs: Job[]; next: string | null }> {
    const text = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)])).toString();
    return (await this.request(`/v1/jobs${text ? `?${text}` : ""}`, withSignal(signal))).json();
  }

  /** Takes effect within a step; harmless when repeated or too late. */
  async cancel(jobId: string, signal?: AbortSignal): Promise<Job> {
    const init = { method: "DELETE", ...withSignal(signal) };
    return (await this.request(`/v1/jobs/${encodeURIComponent(jobId)}`, init)).json();
  }

  /** A finished picture by the `url` that the job gives. */
  async image(url: string, signal?: AbortSignal): Promise<Blob> {
    return (await this.request(url, withSignal(signal))).blob();
  }

  /** A job's events from any id to its end; reconnects by itself. */
  follow(jobId: string, options: FollowOptions = {}): AsyncGenerator<JobEvent, void, void> {
    return follow((path, init) => this.request(path, init), jobId, options);
  }

  /**
   * Posts, follows to the end, and gives the job. Throws WorkerError where the worker refuses or the job fails.
   * When `signal` aborts, the job is cancelled on the worker too.
   */
  async generate(request: JobRequest, options: GenerateOptions = {}): Promise<Job> {
    const { signal, idempotencyKey = randomKey() } = options;
    signal?.throwIfAborted(); // before anything could have arrived
    const posted = await this.submit(request, { ...options, idempotencyKey }).catch(async (error: unknown) => {
      if (signal?.aborted) await this.#withdraw(request, idempotencyKey);
      throw error;
    });
    options.onJob?.(posted);
    try {
      for await (const event of this.follow(posted.job_id, { signal })) {
        options.onEvent?.(event);
        if (isEnd(event)) break;
      }
    } catch (error) {
      if (signal?.aborted) await this.cancel(posted.job_id).catch(() => undefined);
      throw error;
    }
    const job = await this.job(posted.job_id);
    if (job.status === "completed") return job;
    const error = job.error ?? { code: "cancelled", message: "The job was cancelled" };
    throw new WorkerError(200, error.code, error.message, [], null);
  }

  /** Cancels the job that a post without an answer may have made: the same post again says which one that is. */
  async #withdraw(request: JobRequest, idempotencyKey: string): Promise<void> {
    try {
      const signal = AbortSignal.timeout(WITHDRAW_MS);
      const { job_id } = await this.submit(request, { idempotencyKey, signal });
      await this.cancel(job_id, signal);
    } catch {
      // The worker cannot be reached or refuses: nothing more can be done about it.
    }
  }
}

function withSignal(signal: AbortSignal | undefined): RequestInit {
  return signal ? { signal } : {};
}

/** An Idempotency-Key. `crypto.randomUUID` is missing on pages that came by plain http from another machine. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
