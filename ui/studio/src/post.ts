/** A job on its way to the worker. While no answer comes it is shown as one that waits, and can be called off. */

import { unknownJob, type JobRequest, type JobState, type WorkerError } from "@sd-worker/sdk";

import { bestEffort, put, remove } from "./database.ts";
import type { Drawn } from "./settings.ts";
import { Store } from "./store.ts";

/** Kept until it is answered: sent again with its key, by whoever finds it, it is the same job. */
export interface Post {
  key: string;
  request: JobRequest;
  drawn: Drawn;
  source: Blob | null;
  createdAt: string;
  /** Called off. It may have arrived before that, and is then cancelled on the worker. */
  unwanted?: boolean;
}

export const keepPost = (post: Post): Promise<unknown> => bestEffort(put("posts", post));

export const forgetPost = (key: string): Promise<unknown> => bestEffort(remove("posts", key));

/** What a `JobWatch` tells of a job, told of a post: there is no id yet. */
export class PostWatch extends Store<JobState> {
  readonly #post: Post;

  constructor(post: Post) {
    super({ ...unknownJob(""), steps: post.drawn.steps });
    this.#post = post;
  }

  async cancel(): Promise<void> {
    this.#post.unwanted = true;
    this.set({ ...this.getState(), status: "cancelled" });
    await keepPost(this.#post);
  }

  refuse({ code, message }: WorkerError): void {
    if (!this.#post.unwanted) this.set({ ...this.getState(), status: "failed", error: { code, message } });
  }
}
