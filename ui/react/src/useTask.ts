/** Posts jobs of one task and follows the newest. The three public hooks differ in what they ask for alone. */

import { hasEnded, JobWatch, type JobRequest, type JobState } from "@sd-worker/sdk";
import { useCallback, useEffect, useRef, useState } from "react";

import { useClient } from "./context.ts";
import { useJobWatch } from "./useJobWatch.ts";

export interface TaskRun<Request> {
  /** Posts a job and follows it in place of the one before, which goes on. Resolves with its id; null if refused. */
  generate: (request: Request) => Promise<string | null>;
  /** Cancels the job on the worker. */
  cancel: () => Promise<void>;
  job: JobState | null;
  /** True from `generate` until the job's end. */
  busy: boolean;
  /** Why the post was refused or did not arrive. */
  error: Error | null;
}

/** @internal */
export function useTask<Request extends Omit<JobRequest, "task">>(task: NonNullable<JobRequest["task"]>): TaskRun<Request> {
  const client = useClient();
  const [watch, setWatch] = useState<JobWatch | null>(null);
  const [posting, setPosting] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const mounted = useRef(new AbortController());
  useEffect(() => {
    const controller = (mounted.current = new AbortController());
    return () => controller.abort();
  }, []);
  useEffect(() => () => watch?.stop(), [watch]);

  const generate = useCallback(
    async (request: Request) => {
      const { signal } = mounted.current;
      setPosting(true);
      setError(null);
      try {
        const posted = await client.submit({ ...request, task }, { signal });
        setWatch(new JobWatch(client, posted));
        return posted.job_id;
      } catch (refused) {
        if (!signal.aborted) setError(refused as Error);
        return null;
      } finally {
        setPosting(false);
      }
    },
    [client, task],
  );
  const job = useJobWatch(watch);
  const cancel = useCallback(async () => watch?.cancel(), [watch]);
  return { generate, cancel, job, busy: posting || (job !== null && !hasEnded(job.status)), error };
}
