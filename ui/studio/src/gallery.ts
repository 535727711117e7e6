/** Every picture this browser has drawn, newest first, with what it was drawn from. Kept on this device alone. */

import { all, put, remove } from "./database.ts";
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
}

export class Gallery extends Store<Picture[]> {
  readonly loaded: Promise<void>;

  constructor() {
    super([]);
    this.loaded = all<Picture>("pictures").then((pictures) => this.#show(pictures));
  }

  async add(picture: Picture): Promise<void> {
    await this.loaded;
    await put("pictures", picture);
    this.#show([...this.getState().filter(({ id }) => id !== picture.id), picture]);
  }

  async remove(id: string): Promise<void> {
    await remove("pictures", id);
    this.#show(this.getState().filter((picture) => picture.id !== id));
  }

  find(id: string): Picture | undefined {
    return this.getState().find((picture) => picture.id === id);
  }

  #show(pictures: Picture[]): void {
    this.set(pictures.toSorted((a, b) => b.createdAt.localeCompare(a.createdAt) || a.id.localeCompare(b.id)));
  }
}
