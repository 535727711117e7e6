/** The jobs of this browser, several at once. They outlive the page: their ids are kept until their pictures are. */

import { JobWatch, randomKey, unknownJob, WorkerError, type Client, type Job, type JobRequest, type JobState } from "@sd-worker/sdk";

import { all, bestEffort, get, put, remove } from "./database.ts";
import type { Gallery } from "./gallery.ts";
import { thumbnailOf } from "./picture.ts";
import { forgetPost, keepPost, PostWatch, type Post } from "./post.ts";
import { forgetRunning, keepRunning, readRunning } from "./running.ts";
import type { Drawn } from "./settings.ts";
import { Store } from "./store.ts";
import { Streams } from "./streams.ts";

export interface Entry {
  /** The job's id, or the key of its post where that was not answered soon. */
  id: string;
  drawn: Drawn;
  createdAt: string;
  watch: Pick<JobWatch, "getState" | "subscribe" | "cancel">;
  /** What it begins with, where this page knows. */
  source: Blob | null;
  /** True once its pictures are in the gallery. */
  kept: boolean;
}

/** For how long a post may be unanswered until it has a card. */
const PATIENCE_MS = 1000;
const RETRY_MS = 2000;
/** What was asked for before that is not sent any more: nobody waits for it. */
const LONGEST_WAIT_MS = 24 * 3600 * 1000;

export class Board extends Store<Entry[]> {
  readonly #client: Client;
  readonly #gallery: Gallery;
  readonly #streams = new Streams();
  /** The keys of the posts that this page sends. */
  readonly #sending = new Set<string>();
  /** Posts that wait for a token, by their keys. */
  readonly #locked = new Map<string, Post>();

  constructor(client: Client, gallery: Gallery) {
    super([]);
    this.#client = client;
    this.#gallery = gallery;
  }

  /** Picks up what was running or not answered when the page was left. Called whenever the worker lets us in. */
  resume(): void {
    const oldestFirst = readRunning().toSorted((a, b) => a.createdAt.localeCompare(b.createdAt));
    for (const { id, drawn, createdAt, resumeFrom, unwanted } of oldestFirst) {
      if (this.#follows(id)) continue;
      const watch = new JobWatch(this.#client, { ...unknownJob(id), steps: drawn.steps, resumeFrom }, this.#streams);
      this.#follow({ id, drawn, createdAt, watch, source: null, kept: false }, watch);
      if (unwanted) void watch.cancel().catch(() => undefined);
    }
    void this.#sendAgain();
  }

  /**
   * Posts a job; the id of its entry. Throws WorkerError where the worker refuses it. While nobody knows whether it
   * arrived, it waits on the board and is sent again with its key, so that it is drawn once.
   */
  async submit(request: JobRequest, drawn: Drawn, source: Blob | null): Promise<string> {
    const post: Post = { key: randomKey(), request, drawn, source, createdAt: new Date().toISOString() };
    this.#sending.add(post.key);
    await keepPost(post);
    const answer = this.#send(post);
    const taken = answer.then((job) => this.#take(post, job));
    try {
      if (await Promise.race([Promise.allSettled([answer]), passed(PATIENCE_MS)])) return await taken;
    } catch (error) {
      if (isRefusal(error) || isFull(error)) {
        await this.#settle(post);
        throw error;
      }
    }
    void this.#sendOn(post, taken);
    return post.key;
  }

  find(id: string): Entry | undefined {
    return this.getState().find((entry) => entry.id === id);
  }

  /** Takes an ended job off the board. */
  dismiss(id: string): void {
    this.set(this.getState().filter((entry) => entry.id !== id));
  }

  /** Posts that wait for a token, and those that the page was left in the middle of. */
  async #sendAgain(): Promise<void> {
    const locked = [...this.#locked.values()];
    this.#locked.clear();
    for (const post of [...locked, ...((await bestEffort(all<Post>("posts"))) ?? [])]) {
      if (this.#sending.has(post.key)) continue;
      if (Date.now() - Date.parse(post.createdAt) > LONGEST_WAIT_MS) await forgetPost(post.key);
      else void this.#sendOn(post);
    }
  }

  /** Sends it until the worker answers, `first` being on its way. Meanwhile it is on the board, where it can be called off. */
  async #sendOn(post: Post, first?: Promise<string>): Promise<void> {
    const { key, drawn, createdAt, source } = post;
    this.#sending.add(key);
    const known = this.find(key)?.watch;
    const watch = known ?? new PostWatch(post);
    if (!known && !post.unwanted) this.#place({ id: key, drawn, createdAt, watch, source, kept: false });
    for (let taken = first; ; taken = undefined) {
      try {
        await (taken ?? this.#send(post).then((job) => this.#take(post, job)));
        return;
      } catch (error) {
        // A full queue is told and not waited for: the job is not in it, and the person may want another one by then.
        if (isRefusal(error) || (taken && isFull(error))) {
          if (watch instanceof PostWatch) watch.refuse(error);
          return this.#settle(post);
        }
        if (asksForToken(error)) {
          this.#sending.delete(key);
          this.#locked.set(key, post);
          return;
        }
        await waitAfter(error);
      }
    }
  }

  #send({ key, request }: Post): Promise<Job> {
    return this.#client.submit(request, { idempotencyKey: key });
  }

  /** What was answered; the id of its entry. */
  async #take(post: Post, job: Job): Promise<string> {
    const { key } = post;
    if (post.unwanted) await this.#client.cancel(job.job_id);
    else if (!this.#follows(job.job_id)) await this.#begin(post, job);
    else if (this.find(key)?.watch instanceof PostWatch) this.dismiss(key); // it had been answered when the page was left
    await this.#settle(post);
    return this.find(key) ? key : job.job_id;
  }

  async #begin({ key, drawn, source }: Post, job: Job): Promise<void> {
    const { job_id: jobId, created_at: createdAt } = job;
    keepRunning({ id: jobId, drawn, createdAt, resumeFrom: 0 });
    const watch = new JobWatch(this.#client, job, this.#streams);
    this.#follow({ id: this.find(key) ? key : jobId, drawn, createdAt, watch, source, kept: false }, watch);
    if (source) await bestEffort(put("sources", { jobId, blob: source }));
  }

  /** There is nothing more to be sent of it. */
  async #settle({ key }: Post): Promise<void> {
    this.#sending.delete(key);
    await forgetPost(key);
  }

  #follows(jobId: string): boolean {
    return this.getState().some(({ watch }) => watch.getState().jobId === jobId);
  }

  /** In the place of the one with its id, or in front. */
  #place(entry: Entry): void {
    const entries = this.getState();
    const known = entries.some(({ id }) => id === entry.id);
    this.set(known ? entries.map((one) => (one.id === entry.id ? entry : one)) : [entry, ...entries]);
  }

  #follow(entry: Entry, watch: JobWatch): void {
    const { jobId } = watch;
    const { drawn, createdAt } = entry;
    this.#place(entry);
    let before = watch.getState();
    const leave = watch.subscribe(() => {
      const { resumeFrom, cancelling: unwanted } = watch.getState();
      if (resumeFrom === before.resumeFrom && unwanted === before.cancelling) return;
      before = watch.getState();
      keepRunning({ id: jobId, drawn, createdAt, resumeFrom, unwanted });
    });
    void watch.ended.then((state) => {
      leave();
      return this.#end(entry, state);
    });
  }

  async #end(entry: Entry, state: JobState): Promise<void> {
    const { id } = entry;
    try {
      if (state.error?.code === "unauthorized") return this.dismiss(id); // picked up again once there is a token
      if (state.status === "completed") await this.#store(entry, state);
    } catch (error) {
      if (!isRefusal(error)) return this.dismiss(id); // and here too
      const { code, message } = error;
      state = { ...state, status: "failed", error: { code, message } };
      const told = state;
      const watch = { getState: () => told, subscribe: () => () => undefined, cancel: async () => undefined };
      this.#place({ ...entry, watch });
    }
    forgetRunning(state.jobId);
    await bestEffort(remove("sources", state.jobId));
    if (state.status !== "completed") return;
    this.set(this.getState().map((one) => (one.id === id ? { ...one, kept: true } : one)));
  }

  async #store({ drawn, createdAt, source }: Entry, state: JobState): Promise<void> {
    const { jobId, warnings } = state;
    const begun = source ?? (await bestEffort(get<{ blob: Blob }>("sources", jobId)))?.blob ?? null;
    for (const image of state.images) {
      const blob = await this.#fetch(image.url);
      await this.#gallery.add({
        id: `${jobId}-${image.index}`,
        jobId,
        createdAt,
        drawn: { ...drawn, seed: image.seed, width: image.width, height: image.height },
        blob,
        thumbnail: await thumbnailOf(blob).catch(() => blob),
        width: image.width,
        height: image.height,
        source: begun,
        seconds: state.timings?.total_s ?? null,
        warnings,
      });
    }
  }

  /** Asks until there is an answer. Throws where the worker no longer has the picture, or asks for a token. */
  async #fetch(url: string): Promise<Blob> {
    for (;;) {
      try {
        return await this.#client.image(url);
      } catch (error) {
        if (isRefusal(error) || asksForToken(error)) throw error;
        await waitAfter(error);
      }
    }
  }
}

/** Whether the same answer would come again. */
function isRefusal(error: unknown): error is WorkerError {
  return error instanceof WorkerError && !error.temporary && !asksForToken(error);
}

function isFull(error: unknown): error is WorkerError {
  return error instanceof WorkerError && error.status === 429;
}

function asksForToken(error: unknown): boolean {
  return error instanceof WorkerError && error.status === 401;
}

function waitAfter(error: unknown): Promise<void> {
  const askedS = (error instanceof WorkerError && error.retryAfterS) || 0;
  return passed(Math.max(RETRY_MS, askedS * 1000));
}

function passed(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
