/** Which jobs have a stream: browsers open six connections to a host over HTTP/1.1, and all tabs have them together. */

import type { JobState, Turns } from "@sd-worker/sdk";

/** Of all tabs together; what is left is for everything else that is asked. */
const SHARED = 4;
/** Of each tab, where tabs cannot agree: browsers have Web Locks in secure contexts alone. */
const OWN = 2;

export class Streams implements Turns {
  /** What ends them, by their jobs. */
  readonly #open = new Map<string, () => void>();
  /** Jobs that were told to wait, the first one first, and whether they run. */
  readonly #waiting = new Map<string, boolean>();
  #own = 0;

  /** Of the jobs that wait one that runs is first, and then the one that waits longest. */
  async take({ jobId, status }: JobState): Promise<boolean> {
    const runs = status === "running";
    if (this.#waiting.has(jobId)) this.#waiting.set(jobId, runs);
    const waiting = [...this.#waiting];
    const [next] = waiting.find(([, running]) => running) ?? waiting[0] ?? [jobId];
    const release = next === jobId ? await this.#free() : null;
    if (release === null) {
      this.#waiting.set(jobId, runs);
      return false;
    }
    this.#waiting.delete(jobId);
    this.#open.set(jobId, release);
    return true;
  }

  leave(jobId: string): void {
    this.#waiting.delete(jobId);
    this.#open.get(jobId)?.();
    this.#open.delete(jobId);
  }

  /** What gives a place back; null while there is none. */
  async #free(): Promise<(() => void) | null> {
    try {
      for (let place = 1; place <= SHARED; place += 1) {
        const release = await lock(`sd-worker-stream-${place}`);
        if (release) return release;
      }
      return null;
    } catch {
      // There are no locks, or this page may not have them.
      if (this.#own === OWN) return null;
      this.#own += 1;
      return () => (this.#own -= 1);
    }
  }
}

/** What releases it; null where another one has it. */
function lock(name: string): Promise<(() => void) | null> {
  return new Promise((resolve, reject) => {
    const taken = navigator.locks.request(name, { ifAvailable: true }, (free) => {
      if (free === null) return resolve(null);
      return new Promise<void>((release) => resolve(release));
    });
    taken.catch(reject);
  });
}
