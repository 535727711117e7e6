/** The worker's routes as functions. Knows HTTP; how a stream survives a network is `follow`'s. */

import { Connection } from "./connection.ts";
import type { JobEvent } from "./events.ts";
import { isEnd } from "./events.ts";
import { follow, type FollowOptions } from "./follow.ts";
import type { Info, Readiness } from "./info.ts";
import type { Job, Status } from "./job.ts";
import { pause, untilAnswered } from "./pause.ts";
import { readProblem, WorkerError } from "./problem.ts";
import type { JobRequest } from "./request.ts";
import { checkedToken } from "./token.ts";

export interface ClientOptions {
  /** Where the worker is. Default: the page's own origin. */
  baseUrl?: string;
  /** Bearer token, of visible ASCII; a function is asked before each request. */
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
/** For how long a post may be on its way and unanswered. The worker takes a body for 60 s. */
const POST_MS = 75_000;
/** For how long nothing may come of any other answer. */
const SILENCE_MS = 30_000;
/** For how long a call that was given up still tries to cancel what it may have begun. */
const WITHDRAW_MS = 5000;

export class Client {
  readonly #base: string;
  readonly #token: NonNullable<ClientOptions["token"]>;
  readonly #fetch: typeof fetch;

  /** Throws WorkerError where the token is none. */
  constructor(options: ClientOptions = {}) {
    this.#base = (options.baseUrl ?? "").replace(/\/+$/, "");
    const { token } = options;
    this.#token = typeof token === "string" ? checkedToken(token) : (token ?? (() => null));
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
  }

  /** One request with the token, without a limit of time. Throws WorkerError for any answer that is no success. */
  async request(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    const token = typeof this.#token === "function" ? this.#token() : this.#token;
    if (token) headers.set("Authorization", `Bearer ${checkedToken(token)}`);
    const response = await this.#fetch(this.#base + path, { ...init, headers });
    if (!response.ok) throw await readProblem(response);
    return response;
  }

  async info(signal?: AbortSignal): Promise<Info> {
    return this.#json("/v1/info", signal);
  }

  /** Also while loading: that is no error. */
  async ready(signal?: AbortSignal): Promise<Readiness> {
    const connection = new Connection(SILENCE_MS, signal);
    try {
      const response = await this.#fetch(`${this.#base}/ready`, { signal: connection.signal });
      if (response.ok || response.status === 503) return await response.json();
      throw await readProblem(response);
    } finally {
      connection.close();
    }
  }

  /** Prometheus text. */
  async metrics(signal?: AbortSignal): Promise<string> {
    return (await this.#answer("/metrics", signal)).text();
  }

  /** Posts a job. Throws WorkerError; `retryAfterS` of a 429 says when there may be room. */
  async submit(request: JobRequest, options: SubmitOptions = {}): Promise<Job> {
    const headers = {
      "Content-Type": "application/json",
      "Idempotency-Key": options.idempotencyKey ?? randomKey(),
    };
    const init = { method: "POST", headers, body: JSON.stringify(request) };
    const deadline = Date.now() + (options.patienceMs ?? 0);
    for (;;) {
      try {
        return await this.#json("/v1/jobs", options.signal, init, POST_MS);
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
    return this.#json(`/v1/jobs/${encodeURIComponent(jobId)}`, signal);
  }

  /** Newest first; `after` is the `next` of the page before. */
  async jobs(
    query: { limit?: number; after?: string; status?: Status } = {},
    signal?: AbortSignal,
  ): Promise<{ jobs: Job[]; next: string | null }> {
    const text = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)])).toString();
    return this.#json(`/v1/jobs${text ? `?${text}` : ""}`, signal);
  }

  /** Takes effect within a step; harmless when repeated or too late. */
  async cancel(jobId: string, signal?: AbortSignal): Promise<Job> {
    return this.#json(`/v1/jobs/${encodeURIComponent(jobId)}`, signal, { method: "DELETE" });
  }

  /** A finished picture by the `url` that the job gives. */
  async image(url: string, signal?: AbortSignal): Promise<Blob> {
    return this.#answer(url, signal);
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
    const job = await untilAnswered(() => this.job(posted.job_id, signal), signal);
    if (job.status === "completed") return job;
    const error = job.error ?? { code: "cancelled", message: "The job was cancelled" };
    throw new WorkerError(200, error.code, error.message, [], null);
  }

  async #json<Answer>(path: string, signal?: AbortSignal, init?: RequestInit, silenceMs?: number): Promise<Answer> {
    return JSON.parse(await (await this.#answer(path, signal, init, silenceMs)).text()) as Answer;
  }

  /** One try of a request, with its whole body: a connection on which nothing comes any more counts as lost. */
  async #answer(path: string, signal?: AbortSignal, init?: RequestInit, silenceMs = SILENCE_MS): Promise<Blob> {
    const connection = new Connection(silenceMs, signal);
    try {
      const { body, headers } = await this.request(path, { ...init, signal: connection.signal });
      const parts: Uint8Array<ArrayBuffer>[] = [];
      if (body) for await (const part of connection.read(body)) parts.push(part);
      return new Blob(parts, { type: headers.get("Content-Type") ?? "" });
    } finally {
      connection.close();
    }
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

/** An Idempotency-Key. `crypto.randomUUID` is missing on pages that came by plain http from another machine. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
