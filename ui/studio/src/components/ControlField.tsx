/** ControlNets that fit the model, each with its picture and how much it counts. Nothing where the worker offers none. */

import { randomKey } from "@sd-worker/sdk";
import { useRef } from "react";

import { controlNames, controlsOf, type ControlChoice, type Task } from "../settings.ts";
import { useStudio, type Source } from "../studio.ts";
import { Icon } from "./Icon.tsx";
import { NumberField } from "./NumberField.tsx";
import { PictureDrop } from "./PictureDrop.tsx";

export function ControlField({ task }: { task: Task }) {
  const { info, settings, change } = useStudio();
  const field = useRef<HTMLFieldSetElement>(null);
  const names = controlNames(info, task);
  if (names.length === 0) return null;
  const controls = controlsOf(settings, task, info);
  const set = (next: (before: ControlChoice[]) => ControlChoice[]) => change((before) => ({ controls: next(before.controls) }));
  const add = (name: string) => {
    const added = { key: randomKey(), name, picture: null, preprocessor: "none" as const, scale: 1, start: 0, end: 1 };
    set((before) => [...before, added]);
  };
  const remove = (key: string) => {
    set((before) => before.filter((one) => one.key !== key));
    field.current?.focus(); // the button that had it is gone
  };
  return (
    <fieldset className="controls" ref={field} tabIndex={-1}>
      <legend>ControlNets</legend>
      {controls.map((one) => (
        <ControlEntry
          key={one.key}
          control={one}
          onChange={(part) => set((before) => before.map((other) => (other.key === one.key ? { ...other, ...part } : other)))}
          onRemove={() => remove(one.key)}
        />
      ))}
      {controls.length < info.limits.max_adapters && (
        <select aria-label="Add a ControlNet" value="" onChange={(event) => add(event.target.value)}>
          <option value="">Add a ControlNet…</option>
          {names.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      )}
    </fieldset>
  );
}

interface EntryProps {
  control: ControlChoice;
  onChange: (part: Partial<ControlChoice>) => void;
  onRemove: () => void;
}

function ControlEntry({ control, onChange, onRemove }: EntryProps) {
  const { controlPictures, addControlPicture } = useStudio();
  const { name, picture, preprocessor, scale, start, end } = control;
  const take = (taken: Source) => {
    const id = randomKey();
    addControlPicture(id, taken);
    onChange({ picture: id });
  };
  return (
    <fieldset className="control">
      <legend>{name}</legend>
      <div className="row">
        <PictureDrop picture={controlPictures.get(picture ?? "") ?? null} onPicture={take} />
        <button type="button" className="icon" aria-label={`Take ${name} out`} onClick={onRemove}>
          <Icon name="close" />
        </button>
      </div>
      <label className="field">
        <span>Preprocessor</span>
        <select value={preprocessor} onChange={(event) => onChange({ preprocessor: event.target.value as ControlChoice["preprocessor"] })}>
          <option value="none">None: a control picture</option>
          <option value="canny">Canny: edges of a picture</option>
        </select>
      </label>
      <NumberField label="Strength" value={scale} min={0} max={10} sliderMax={2} step={0.05} onChange={(value) => onChange({ scale: value })} />
      <div className="row">
        <NumberField label="Start" value={start} min={0} max={1} step={0.01} onChange={(value) => onChange({ start: Math.min(value, end) })} />
        <NumberField label="End" value={end} min={0} max={1} step={0.01} onChange={(value) => onChange({ end: Math.max(value, start) })} />
      </div>
    </fieldset>
  );
}
