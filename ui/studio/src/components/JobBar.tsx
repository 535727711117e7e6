/** How far a job is: its place in the queue, its steps, the time left, or why it ended; and the way to be rid of it. */

import { hasEnded, type JobState } from "@sd-worker/sdk";

import { Icon } from "./Icon.tsx";

export function JobBar({ job, onCancel, onDismiss }: { job: JobState; onCancel: () => void; onDismiss: () => void }) {
  const percent = job.steps > 0 ? (100 * job.step) / job.steps : 0;
  const over = hasEnded(job.status) && job.status !== "completed";
  return (
    <div className="job-bar">
      <div className="job-line">
        <span className={job.status === "failed" ? "fault" : ""}>{job.error?.message ?? phaseOf(job)}</span>
        {job.etaS !== null && job.connected && !job.cancelling && !over && <span className="quiet">{secondsText(job.etaS)} left</span>}
        {/* One button, which keeps the focus when the job ends. */}
        <button type="button" className="small" onClick={over ? onDismiss : onCancel}>
          {over ? "Dismiss" : <><Icon name="close" /> Cancel <kbd>Esc</kbd></>}
        </button>
      </div>
      {!over && <progress max={100} value={percent} aria-label="Steps done" />}
    </div>
  );
}

export function phaseOf(job: JobState): string {
  if (job.status === "completed") return "Done";
  if (job.status === "cancelled") return "Cancelled";
  if (job.status === "failed") return "Failed";
  if (job.cancelling) return "Cancelling…";
  if (!job.connected) return "Connection lost, coming back…";
  if (job.status === "queued" && job.jobId === "") return "Not sent yet, trying…";
  if (job.status === "queued" && job.position !== null && job.position > 0) return `Waiting, ${job.position} ahead`;
  if (job.status === "queued") return "Next in the queue";
  if (job.step === 0) return "Starting";
  return job.step < job.steps ? `Step ${job.step} of ${job.steps}` : "Finishing";
}

export function secondsText(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
