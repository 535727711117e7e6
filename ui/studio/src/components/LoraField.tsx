/** LoRAs that fit the model, each with its scale. Nothing where the worker offers none. */

import { loraNames } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { Icon } from "./Icon.tsx";
import { NumberField } from "./NumberField.tsx";

export function LoraField() {
  const { info, settings, change } = useStudio();
  const names = loraNames(info);
  if (names.length === 0) return null;
  const free = names.filter((name) => !settings.loras.some((one) => one.name === name));
  const set = (name: string, scale: number) =>
    change({ loras: settings.loras.map((one) => (one.name === name ? { name, scale } : one)) });
  return (
    <fieldset className="loras">
      <legend>LoRAs</legend>
      {settings.loras.map(({ name, scale }) => (
        <div className="row" key={name}>
          <NumberField label={name} value={scale} min={-10} max={10} sliderMax={2} step={0.05} onChange={(value) => set(name, value)} />
          <button
            type="button"
            className="icon"
            aria-label={`Take ${name} out`}
            onClick={() => change({ loras: settings.loras.filter((one) => one.name !== name) })}
          >
            <Icon name="close" />
          </button>
        </div>
      ))}
      {free.length > 0 && settings.loras.length < info.limits.max_adapters && (
        <select
          aria-label="Add a LoRA"
          value=""
          onChange={(event) => change({ loras: [...settings.loras, { name: event.target.value, scale: 1 }] })}
        >
          <option value="">Add a LoRA…</option>
          {free.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      )}
    </fieldset>
  );
}
