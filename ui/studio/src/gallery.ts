/** Every picture this browser has drawn, newest first, with what it was drawn from. Kept on this device alone. */

import { all, bestEffort, put, remove } from "./database.ts";
import type { Drawn } from "./settings.ts";
import { Store } from "./store.ts";

export interface Picture {
  /** The job's id and the picture's index. */
  id: string;
  jobId: string;
  createdAt: string;
  drawn: Drawn;
  blob: Blob;
  /** A small copy for lists. */
  thumbnail: Blob;
  width: number;
  height: number;
  /** What it was made from, where the task begins with a picture. */
  source: Blob | null;
  seconds: number | null;
  /** What the worker did not do as it was asked. Not known of pictures that were kept before there were any. */
  warnings?: string[];
  /** True where the browser would not keep it: it is gone when the page is left. */
  fleeting?: boolean;
}

export class Gallery extends Store<Picture[]> {
  readonly loaded: Promise<void>;

  constructor() {
    super([]);
    this.loaded = bestEffort(all<Picture>("pictures")).then((pictures) => this.#show(pictures ?? []));
  }

  async add(picture: Picture): Promise<void> {
    await this.loaded;
    const kept = await put("pictures", picture).then(
      () => true,
      () => false,
    );
    const others = this.getState().filter(({ id }) => id !== picture.id);
    this.#show([...others, kept ? picture : { ...picture, fleeting: true }]);
  }

  async remove(id: string): Promise<void> {
    await bestEffort(remove("pictures", id));
    this.#show(this.getState().filter((picture) => picture.id !== id));
  }

  find(id: string): Picture | undefined {
    return this.getState().find((picture) => picture.id === id);
  }

  #show(pictures: Picture[]): void {
    this.set(pictures.toSorted((a, b) => b.createdAt.localeCompare(a.createdAt) || a.id.localeCompare(b.id)));
  }
}
