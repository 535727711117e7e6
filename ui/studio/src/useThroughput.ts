/** Rows of the model per second, from the worker's metrics, for the last minutes. */

import { useClient } from "@sd-worker/react";
import { useEffect, useState } from "react";

const INTERVAL_MS = 2000;
const KEPT = 60;

/** Oldest first; empty until two answers came, and where the metrics are not ours to see. */
export function useThroughput(): number[] {
  const client = useClient();
  const [rates, setRates] = useState<number[]>([]);
  useEffect(() => {
    const controller = new AbortController();
    let before: { rows: number; at: number } | null = null;
    let asking = false;
    const ask = async () => {
      if (asking) return;
      asking = true;
      const text = await client.metrics(controller.signal).catch(() => null);
      asking = false;
      const found = text && /^sdw_step_rows_sum (\S+)/m.exec(text);
      if (!found) return;
      const now = { rows: Number(found[1]), at: performance.now() };
      const last = before;
      before = now;
      if (last) setRates((known) => [...known, Math.max(0, (1000 * (now.rows - last.rows)) / (now.at - last.at))].slice(-KEPT));
    };
    void ask();
    const timer = setInterval(() => void ask(), INTERVAL_MS);
    return () => {
      controller.abort();
      clearInterval(timer);
    };
  }, [client]);
  return rates;
}
