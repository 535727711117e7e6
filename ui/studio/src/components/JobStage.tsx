/** A job that is not done, large: its preview as it becomes clear, or why there is none. */

import { hasEnded } from "@sd-worker/sdk";
import { useJobWatch } from "@sd-worker/react";

import type { Entry } from "../board.ts";
import { titleOf } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { focusBeside } from "./focus.ts";
import { JobBar, phaseOf } from "./JobBar.tsx";

export function JobStage({ entry }: { entry: Entry }) {
  const { select, board } = useStudio();
  const job = useJobWatch(entry.watch)!;
  const { preview } = job;
  const shape = { aspectRatio: `${entry.drawn.width} / ${entry.drawn.height}` };
  const over = hasEnded(job.status) && job.status !== "completed";
  return (
    <>
      <figure className="canvas" style={shape} data-wide={entry.drawn.width >= entry.drawn.height} data-job={entry.id}>
        {preview ? (
          <img className="preview" src={`data:image/${preview.format};base64,${preview.image}`} alt={`Preview: ${titleOf(entry.drawn)}`} />
        ) : (
          <div className="blank" data-over={over}>{over ? phaseOf(job) : ""}</div>
        )}
      </figure>
      <JobBar
        job={job}
        onCancel={() => {
          select(entry.id); // it stays in sight when it is over
          void entry.watch.cancel().catch(() => undefined);
        }}
        onDismiss={() => {
          focusBeside(entry.id);
          board.dismiss(entry.id);
          select(null);
        }}
      />
    </>
  );
}
