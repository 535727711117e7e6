/** How the job that is shown goes, for those who hear the page: a few of its steps, and its end. */

import { useJobWatch } from "@sd-worker/react";
import type { JobState } from "@sd-worker/sdk";
import { useRef } from "react";

import type { Entry } from "../board.ts";
import { useEntries } from "../studio.ts";
import { phaseOf } from "./JobBar.tsx";

/** It stays on the page when the job leaves it: what comes with its text is not read out. */
export function JobNews({ entry }: { entry: Entry | undefined }) {
  const job = useJobWatch(entry?.watch ?? null);
  const last = useRef<string>(undefined);
  if (entry) last.current = entry.id;
  const done = useEntries().some(({ id, kept }) => kept && id === last.current);
  return (
    <p className="visually-hidden" role="status">
      {job ? newsOf(job) : done ? "Done" : ""}
    </p>
  );
}

function newsOf(job: JobState): string {
  const quarter = Math.floor((4 * job.step) / job.steps);
  const step = job.step && Math.max(1, Math.ceil((quarter * job.steps) / 4)); // the first one of its quarter
  return job.error?.message ?? phaseOf({ ...job, step });
}
