/** Everything that is set for a job but its pictures. */

import { isByNetwork, type Task } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { ControlField } from "./ControlField.tsx";
import { LoraField } from "./LoraField.tsx";
import { NumberField } from "./NumberField.tsx";
import { SeedField } from "./SeedField.tsx";
import { SizeField } from "./SizeField.tsx";
import { UpscaleField } from "./UpscaleField.tsx";

export function Controls({ task }: { task: Task }) {
  const { info, settings, change } = useStudio();
  const { limits } = info;
  if (isByNetwork(settings, task)) return <UpscaleField />;
  return (
    <>
      <label className="field">
        <span>Prompt</span>
        <textarea
          rows={4}
          maxLength={limits.prompt_characters}
          placeholder="What to draw"
          value={settings.prompt}
          onChange={(event) => change({ prompt: event.target.value })}
        />
      </label>
      <label className="field">
        <span>Negative prompt</span>
        <textarea
          rows={2}
          maxLength={limits.prompt_characters}
          placeholder="What to stay away from"
          value={settings.negative}
          onChange={(event) => change({ negative: event.target.value })}
        />
      </label>
      {task === "text-to-image" && <SizeField />}
      {task === "upscale" && <UpscaleField />}
      {(task === "image-to-image" || task === "inpainting") && (
        <NumberField label="Strength" value={settings.strength} min={0.01} max={1} step={0.01} onChange={(strength) => change({ strength })} />
      )}
      <NumberField label="Steps" value={settings.steps} min={1} max={limits.max_steps} sliderMax={Math.min(60, limits.max_steps)} step={1} onChange={(steps) => change({ steps })} />
      <NumberField label="Guidance" value={settings.guidance} min={0} max={limits.max_guidance_scale} sliderMax={15} step={0.1} onChange={(guidance) => change({ guidance })} />
      <label className="field">
        <span>Sampler</span>
        <select value={settings.sampler} onChange={(event) => change({ sampler: event.target.value })}>
          {info.samplers.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      </label>
      <SeedField />
      <NumberField label="Pictures" value={settings.count} min={1} max={limits.max_images} step={1} onChange={(count) => change({ count })} />
      <LoraField />
      <ControlField task={task} />
    </>
  );
}
