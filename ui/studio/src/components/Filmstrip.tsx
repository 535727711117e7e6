/** Running jobs and the newest pictures, small, to look at one of them large. */

import { hasEnded } from "@sd-worker/sdk";
import { useJobWatch } from "@sd-worker/react";

import type { Entry } from "../board.ts";
import { titleOf } from "../settings.ts";
import { useEntries, usePictures, useStudio } from "../studio.ts";
import { BlobImage } from "./BlobImage.tsx";
import { focusBeside } from "./focus.ts";
import { Icon } from "./Icon.tsx";
import { phaseOf } from "./JobBar.tsx";

const SHOWN = 24;

export function Filmstrip() {
  const { selected, select } = useStudio();
  const entries = useEntries();
  const pictures = usePictures();
  if (entries.length + pictures.length === 0) return null;
  return (
    <ul className="filmstrip" aria-label="Jobs and newest pictures">
      {entries.map((entry) => (
        <JobCard key={entry.id} entry={entry} />
      ))}
      {pictures.slice(0, SHOWN).map((picture) => (
        <li key={picture.id}>
          <button
            type="button"
            className="thumb"
            data-card={picture.id}
            aria-pressed={selected === picture.id}
            aria-label={titleOf(picture.drawn)}
            onClick={() => select(picture.id)}
          >
            <BlobImage blob={picture.thumbnail} alt="" />
          </button>
        </li>
      ))}
    </ul>
  );
}

function JobCard({ entry }: { entry: Entry }) {
  const { selected, select, board } = useStudio();
  const job = useJobWatch(entry.watch)!;
  if (job.status === "completed" && entry.kept) return null;
  const ended = hasEnded(job.status) && job.status !== "completed";
  return (
    <li className="job-card" data-status={job.status} data-job={entry.id}>
      <button
        type="button"
        className="thumb"
        data-card={entry.id}
        aria-pressed={selected === entry.id}
        aria-label={`${titleOf(entry.drawn)}: ${phaseOf(job)}`}
        onClick={() => select(entry.id)}
      >
        {job.preview && <img src={`data:image/${job.preview.format};base64,${job.preview.image}`} alt="" />}
        <progress max={Math.max(1, job.steps)} value={job.step} aria-hidden="true" />
      </button>
      <button
        type="button"
        className="icon job-card-close"
        aria-label={ended ? "Dismiss this job" : "Cancel this job"}
        onClick={() => {
          if (!ended) return void entry.watch.cancel().catch(() => undefined);
          focusBeside(entry.id);
          board.dismiss(entry.id);
        }}
      >
        <Icon name="close" />
      </button>
    </li>
  );
}
