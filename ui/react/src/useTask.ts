/** Posts jobs of one task and follows the newest. The three public hooks differ in what they ask for alone. */

import { hasEnded, JobWatch, randomKey, WorkerError, type Job, type JobRequest, type JobState } from "@sd-worker/sdk";
import { useCallback, useEffect, useRef, useState } from "react";

import { useClient } from "./context.ts";
import { useJobWatch } from "./useJobWatch.ts";

/** How long a post that was lost may take once more, to cancel what it may have made. */
const WITHDRAW_MS = 10_000;

export interface TaskRun<Request> {
  /**
   * Posts a job and follows it in place of the one before, which goes on. Resolves with its id; null if refused.
   * Of calls that overlap the last one is followed, whichever is answered first.
   */
  generate: (request: Request) => Promise<string | null>;
  /** Cancels the job on the worker; one that is being posted as soon as its post is answered. */
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
  const left = useRef(false);
  /** The last post while it is not answered; `again` gives the same job, if it has arrived. */
  const awaited = useRef<{ answer: Promise<Job>; again: () => Promise<Job> } | null>(null);
  const shown = useRef<JobWatch | null>(null);
  useEffect(() => {
    left.current = false;
    return () => {
      left.current = true;
    };
  }, []);
  useEffect(() => () => watch?.stop(), [watch]);

  const generate = useCallback(
    async (request: Request) => {
      // Leaving the page does not cut it off: nobody would know whether it had arrived, and so what to cancel.
      const idempotencyKey = randomKey();
      const post = (signal?: AbortSignal) => client.submit({ ...request, task }, { idempotencyKey, signal });
      const answer = post();
      awaited.current = { answer, again: () => post(AbortSignal.timeout(WITHDRAW_MS)) };
      setPosting(true);
      setError(null);
      const isLast = () => !left.current && awaited.current?.answer === answer;
      try {
        const posted = await answer;
        if (isLast()) setWatch((shown.current = new JobWatch(client, posted)));
        return posted.job_id;
      } catch (refused) {
        if (isLast()) setError(refused as Error);
        return null;
      } finally {
        if (isLast()) {
          awaited.current = null;
          setPosting(false);
        }
      }
    },
    [client, task],
  );
  const job = useJobWatch(watch);
  const cancel = useCallback(async () => {
    if (awaited.current === null) return shown.current?.cancel();
    const { answer, again } = awaited.current;
    const posted = await answer
      .catch((error: unknown) => (error instanceof WorkerError && !error.ofProxy ? null : again())) // it may have arrived
      .catch(() => null); // refused, or the worker cannot be reached: there is nothing to cancel
    if (posted) await client.cancel(posted.job_id);
  }, [client]);
  return { generate, cancel, job, busy: posting || (job !== null && !hasEnded(job.status)), error };
}
