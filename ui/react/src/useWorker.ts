/** What the worker is and offers, asked for again and again. */

import type { Info } from "@sd-worker/sdk";
import { useCallback, useEffect, useState } from "react";

import { useClient } from "./context.ts";

export interface WorkerState {
  /** The last answer, kept while the worker cannot be reached. */
  info: Info | null;
  /** Why the last question got no answer: a WorkerError (401 asks for a token), or the network's. */
  error: Error | null;
  /** Asks now. */
  refresh: () => void;
}

/** Asks every `intervalMs` while the page is visible. */
export function useWorker(intervalMs = 5000): WorkerState {
  const client = useClient();
  const [answer, setAnswer] = useState<Pick<WorkerState, "info" | "error">>({ info: null, error: null });
  const [round, setRound] = useState(0);
  const refresh = useCallback(() => setRound((before) => before + 1), []);
  useEffect(() => {
    const controller = new AbortController();
    let asking = false;
    const ask = async (): Promise<void> => {
      if (asking) return; // questions without an answer would pile up
      asking = true;
      try {
        const info = await client.info(controller.signal);
        setAnswer({ info, error: null });
      } catch (error) {
        if (!controller.signal.aborted) setAnswer((before) => ({ ...before, error: error as Error }));
      } finally {
        asking = false;
      }
    };
    void ask();
    const timer = setInterval(() => {
      if (typeof document === "undefined" || !document.hidden) void ask();
    }, intervalMs);
    return () => {
      controller.abort();
      clearInterval(timer);
    };
  }, [client, intervalMs, round]);
  return { ...answer, refresh };
}
