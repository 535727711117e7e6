/** Waiting that can be cut short, by an AbortSignal, and in browsers by the network's return; and asking again. */

import { WorkerError } from "./problem.ts";

const RETRY_MS = 1000;

/** Resolves after `ms`, or at once when the browser says it is online again. Rejects with the signal's reason. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const browser = typeof window === "undefined" ? null : window;
    const done = (end: () => void) => () => {
      clearTimeout(timer);
      browser?.removeEventListener("online", wake);
      signal?.removeEventListener("abort", abort);
      end();
    };
    const wake = done(resolve);
    const abort = done(() => reject(signal?.reason));
    const timer = setTimeout(wake, ms);
    browser?.addEventListener("online", wake);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
  });
}

/** Asks again after a lost connection or a busy worker, each time behind `lost`. Throws what the worker refuses with. */
export async function untilAnswered<Answer>(
  ask: () => Promise<Answer>,
  signal?: AbortSignal,
  lost?: () => void,
): Promise<Answer> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof WorkerError && !error.temporary) throw error;
      signal?.throwIfAborted();
      lost?.();
      await pause(RETRY_MS, signal);
    }
  }
}
