/** How a picture is made larger: by which upscaler, how many times, and how much of it is drawn anew. */

import { isByNetwork } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { NumberField } from "./NumberField.tsx";

export function UpscaleField() {
  const { info, settings, change } = useStudio();
  return (
    <>
      <div className="row">
        <label className="field">
          <span>Larger by</span>
          <select value={settings.factor} onChange={(event) => change({ factor: event.target.value === "4" ? 4 : 2 })}>
            <option value={2}>2 ×</option>
            <option value={4}>4 ×</option>
          </select>
        </label>
        <label className="field">
          <span>Upscaler</span>
          <select value={settings.upscaler} onChange={(event) => change({ upscaler: event.target.value })}>
            {(info.upscalers ?? []).map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      </div>
      {!isByNetwork(settings, "upscale") && (
        <NumberField label="Strength" value={settings.upscaleStrength} min={0.01} max={1} step={0.01} onChange={(upscaleStrength) => change({ upscaleStrength })} />
      )}
    </>
  );
}
