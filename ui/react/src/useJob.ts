/** Follows one job by its id. */

import { JobWatch, type JobState } from "@sd-worker/sdk";
import { useCallback, useEffect, useState } from "react";

import { useClient } from "./context.ts";
import { useJobWatch } from "./useJobWatch.ts";

export interface FollowedJob {
  /** Null without an id, and until the first rendering is done. */
  job: JobState | null;
  /** Cancels the job on the worker. */
  cancel: () => Promise<void>;
}

/** Follows from the job's first event; unmounting, or another id, stops following and leaves the job alone. */
export function useJob(jobId: string | null): FollowedJob {
  const client = useClient();
  const [watch, setWatch] = useState<JobWatch | null>(null);
  useEffect(() => {
    if (jobId === null) return;
    const started = new JobWatch(client, jobId);
    setWatch(started);
    return () => {
      started.stop();
      setWatch(null);
    };
  }, [client, jobId]);
  const job = useJobWatch(watch);
  const cancel = useCallback(async () => watch?.cancel(), [watch]);
  return { job, cancel };
}
