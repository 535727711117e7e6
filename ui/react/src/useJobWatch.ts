/** A `JobWatch` as React state. */

import type { JobState, JobWatch } from "@sd-worker/sdk";
import { useCallback, useSyncExternalStore } from "react";

const nothing = () => () => undefined;

/** The state of a watch that somebody else started and stops; null without one. */
export function useJobWatch(watch: JobWatch | null): JobState | null {
  return useSyncExternalStore(
    watch?.subscribe ?? nothing,
    useCallback(() => watch?.getState() ?? null, [watch]),
    () => null,
  );
}
