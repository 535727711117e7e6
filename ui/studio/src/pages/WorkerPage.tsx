/** The worker: its model, its memory, its queue, how fast it is, what it offers. */

import type { ReactNode } from "react";

import { secondsText } from "../components/JobBar.tsx";
import { Sparkline } from "../components/Sparkline.tsx";
import { useStudio } from "../studio.ts";
import { forgetToken, readToken } from "../token.ts";
import { useThroughput } from "../useThroughput.ts";

export function WorkerPage({ error }: { error: Error | null }) {
  const { info } = useStudio();
  const { worker, model, limits } = info;
  const rates = useThroughput();
  const { used_bytes: used, total_bytes: total } = worker.memory;
  return (
    <main className="worker" tabIndex={0}>
      {error && <p className="fault" role="alert">The worker does not answer; this is what it said last.</p>}
      <Card title="Model">
        <Rows
          rows={[
            ["Name", model.id],
            ["Family", model.family],
            ["Precision", model.dtype],
            ["Size", `${model.width} × ${model.height}, in multiples of ${model.multiple}`],
            ["Defaults", `${model.steps} steps, guidance ${model.guidance_scale}, ${model.sampler}`],
          ]}
        />
      </Card>
      <Card title="Worker">
        <Rows
          rows={[
            ["Name", worker.id],
            ["Status", worker.status],
            ["Device", `${worker.device} (${worker.backend})`],
            ["Version", `${worker.implementation} ${worker.version}`],
          ]}
        />
        {readToken() !== null && (
          <button
            type="button"
            className="small"
            onClick={() => {
              forgetToken();
              location.reload();
            }}
          >
            Forget the token
          </button>
        )}
      </Card>
      <Card title="Queue">
        <Rows
          rows={[
            ["Running", String(worker.queue.running)],
            ["Waiting", `${worker.queue.waiting} of ${worker.queue.capacity}`],
            ["All of it done in", worker.queue.eta_s === null ? "not known yet" : secondsText(worker.queue.eta_s)],
          ]}
        />
        <meter aria-label="Waiting jobs" min={0} max={worker.queue.capacity} value={worker.queue.waiting} />
      </Card>
      <Card title="Memory">
        <Rows rows={[["In use", used === null ? "not known" : bytesText(used)], ["Of", total === null ? "not known" : bytesText(total)]]} />
        {used !== null && total !== null && <meter aria-label="Memory in use" min={0} max={total} value={used} />}
      </Card>
      <Card title="Throughput">
        <p className="figure">
          {rates.length > 0 ? rates.at(-1)!.toFixed(1) : "–"} <span className="quiet">rows of the model per second</span>
        </p>
        <Sparkline values={rates} label="Throughput of the last two minutes" />
      </Card>
      <Card title="Offers">
        <Rows
          rows={[
            ["Tasks", info.tasks.join(", ")],
            ["Samplers", info.samplers.join(", ")],
            ["LoRAs", info.loras.map(({ name }) => name).join(", ") || "none"],
            ["ControlNets", info.controls.map(({ name }) => name).join(", ") || "none"],
            ["Largest", `${limits.max_side_px} px a side, ${limits.max_steps} steps, ${limits.max_images} pictures a job`],
          ]}
        />
      </Card>
    </main>
  );
}

function Card({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="card" aria-label={title}>
      <h2>{title}</h2>
      {children}
    </section>
  );
}

function Rows({ rows }: { rows: [string, string][] }) {
  return (
    <dl>
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function bytesText(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`;
}
