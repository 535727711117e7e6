/** A `JobWatch` as React state. */

import type { JobState, JobWatch } from "@sd-worker/sdk";
import { useCallback, useSyncExternalStore } from "react";

const nothing = () => () => undefined;

/** The state of a watch, or of whatever tells its state as one does, that somebody else started and stops; null without one. */
export function useJobWatch(watch: Pick<JobWatch, "getState" | "subscribe"> | null): JobState | null {
  return useSyncExternalStore(
    watch?.subscribe ?? nothing,
    useCallback(() => watch?.getState() ?? null, [watch]),
    () => null,
  );
}
