/** How far a job is: its place in the queue, its steps, the time that is left; and the way to stop it. */

import type { JobState } from "@sd-worker/sdk";

import { Icon } from "./Icon.tsx";

export function JobBar({ job, onCancel }: { job: JobState; onCancel: () => void }) {
  const percent = job.steps > 0 ? (100 * job.step) / job.steps : 0;
  return (
    <div className="job-bar">
      <div className="job-line">
        <span>{phaseOf(job)}</span>
        {job.etaS !== null && <span className="quiet">{secondsText(job.etaS)} left</span>}
        <button type="button" className="small" onClick={onCancel}>
          <Icon name="close" /> Cancel <kbd>Esc</kbd>
        </button>
      </div>
      <progress max={100} value={percent} aria-label="Steps done" />
    </div>
  );
}

export function phaseOf(job: JobState): string {
  if (!job.connected) return "Connection lost, coming back…";
  if (job.status === "queued" && job.jobId === "") return "Not sent yet, trying again…";
  if (job.status === "queued" && job.position !== null && job.position > 0) return `Waiting, ${job.position} ahead`;
  if (job.status === "queued") return "Next in the queue";
  if (job.status === "running") return job.step === 0 ? "Starting" : job.step < job.steps ? `Step ${job.step} of ${job.steps}` : "Finishing";
  if (job.status === "completed") return "Done";
  return job.status === "cancelled" ? "Cancelled" : "Failed";
}

export function secondsText(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
