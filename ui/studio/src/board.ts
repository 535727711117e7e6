/** The jobs of this browser, several at once. They outlive the page: their ids are kept until their pictures are. */

import { JobWatch, randomKey, unknownJob, type Client, type JobRequest, type JobState } from "@sd-worker/sdk";

import { all, get, put, remove } from "./database.ts";
import type { Gallery } from "./gallery.ts";
import { thumbnailOf } from "./picture.ts";
import type { Drawn } from "./settings.ts";
import { Store } from "./store.ts";

export interface Entry {
  id: string;
  drawn: Drawn;
  createdAt: string;
  watch: JobWatch;
  /** True once its pictures are in the gallery. */
  kept: boolean;
}

interface Kept {
  id: string;
  drawn: Drawn;
  createdAt: string;
  resumeFrom: number;
}

/** A post that was not answered yet: sent again by whoever finds it, with its key, it is the same job. */
interface Post {
  key: string;
  request: JobRequest;
  drawn: Drawn;
  source: Blob | null;
}

const NAME = "sd-worker.running";
const FETCH_RETRY_MS = 2000;

export class Board extends Store<Entry[]> {
  readonly #client: Client;
  readonly #gallery: Gallery;
  readonly #posting = new Set<string>();

  constructor(client: Client, gallery: Gallery) {
    super([]);
    this.#client = client;
    this.#gallery = gallery;
  }

  /** Picks up what was running when the page was left. Called once the worker lets us in. */
  resume(): void {
    const known = new Set(this.getState().map(({ id }) => id));
    for (const kept of readKept()) {
      if (known.has(kept.id)) continue;
      const state = { ...unknownJob(kept.id), steps: kept.drawn.steps, resumeFrom: kept.resumeFrom };
      this.#follow(kept.id, kept.drawn, kept.createdAt, new JobWatch(this.#client, state));
    }
    void this.#sendAgain();
  }

  /** Posts a job. Throws WorkerError. */
  async submit(request: JobRequest, drawn: Drawn, source: Blob | null): Promise<string> {
    const post: Post = { key: randomKey(), request, drawn, source };
    await put("posts", post);
    return this.#send(post);
  }

  async #send({ key, request, drawn, source }: Post): Promise<string> {
    this.#posting.add(key);
    try {
      const job = await this.#client.submit(request, { patienceMs: 3000, idempotencyKey: key });
      if (this.find(job.job_id)) return job.job_id; // it had been answered
      keep({ id: job.job_id, drawn, createdAt: job.created_at, resumeFrom: 0 });
      if (source) await put("sources", { jobId: job.job_id, blob: source });
      this.#follow(job.job_id, drawn, job.created_at, new JobWatch(this.#client, job));
      return job.job_id;
    } finally {
      this.#posting.delete(key);
      await remove("posts", key);
    }
  }

  /** Posts that the page was left in the middle of. */
  async #sendAgain(): Promise<void> {
    for (const post of await all<Post>("posts")) {
      if (!this.#posting.has(post.key)) await this.#send(post).catch(() => undefined);
    }
  }

  find(id: string): Entry | undefined {
    return this.getState().find((entry) => entry.id === id);
  }

  /** Takes an ended job off the board. */
  dismiss(id: string): void {
    this.set(this.getState().filter((entry) => entry.id !== id));
  }

  #follow(id: string, drawn: Drawn, createdAt: string, watch: JobWatch): void {
    const entry: Entry = { id, drawn, createdAt, watch, kept: false };
    this.set([entry, ...this.getState()]);
    let resumeFrom = watch.getState().resumeFrom;
    watch.subscribe(() => {
      const state = watch.getState();
      if (state.resumeFrom === resumeFrom || entry.kept) return;
      resumeFrom = state.resumeFrom;
      keep({ id, drawn, createdAt, resumeFrom });
    });
    void watch.ended.then(async (state) => {
      if (state.error?.code === "unauthorized") return this.dismiss(id); // picked up again once there is a token
      if (state.status === "completed") await this.#store(entry, state);
      forget(id);
      await remove("sources", id);
      entry.kept = true;
      this.set(this.getState().map((one) => (one.id === id ? { ...one, kept: true } : one)));
    });
  }

  async #store({ id, drawn, createdAt }: Entry, state: JobState): Promise<void> {
    const source = await get<{ blob: Blob }>("sources", id);
    for (const image of state.images) {
      const blob = await this.#fetch(image.url);
      if (blob === null) return;
      await this.#gallery.add({
        id: `${id}-${image.index}`,
        jobId: id,
        createdAt,
        drawn: { ...drawn, seed: image.seed, width: image.width, height: image.height },
        blob,
        thumbnail: await thumbnailOf(blob),
        width: image.width,
        height: image.height,
        source: source?.blob ?? null,
        seconds: state.timings?.total_s ?? null,
      });
    }
  }

  /** Asks until the network is back; null where the worker no longer has the picture. */
  async #fetch(url: string): Promise<Blob | null> {
    for (;;) {
      try {
        return await this.#client.image(url);
      } catch (error) {
        if (!(error instanceof TypeError)) return null;
        await new Promise((resolve) => setTimeout(resolve, FETCH_RETRY_MS));
      }
    }
  }
}

function readKept(): Kept[] {
  try {
    return JSON.parse(localStorage.getItem(NAME) ?? "[]") as Kept[];
  } catch {
    return [];
  }
}

function keep(job: Kept): void {
  localStorage.setItem(NAME, JSON.stringify([...readKept().filter(({ id }) => id !== job.id), job]));
}

function forget(id: string): void {
  localStorage.setItem(NAME, JSON.stringify(readKept().filter((job) => job.id !== id)));
}
