/** The jobs that were not seen to their end, by what it takes to follow them again when the page was left. */

import { memorize, recall } from "./memory.ts";
import type { Drawn } from "./settings.ts";

export interface Running {
  id: string;
  drawn: Drawn;
  createdAt: string;
  resumeFrom: number;
  /** Cancelled, which the worker may not have heard. */
  unwanted?: boolean;
}

const NAME = "sd-worker.running";

export function readRunning(): Running[] {
  try {
    return JSON.parse(recall(NAME) ?? "[]") as Running[];
  } catch {
    return [];
  }
}

export function keepRunning(job: Running): void {
  memorize(NAME, JSON.stringify([...readRunning().filter(({ id }) => id !== job.id), job]));
}

export function forgetRunning(id: string): void {
  memorize(NAME, JSON.stringify(readRunning().filter((job) => job.id !== id)));
}
