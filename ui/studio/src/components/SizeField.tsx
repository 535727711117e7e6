/** Width and height in the model's multiples, with the usual shapes at hand. */

import { useStudio } from "../studio.ts";
import { Icon } from "./Icon.tsx";

const SHAPES: [string, number, number][] = [
  ["1:1", 1, 1],
  ["4:3", 4, 3],
  ["3:4", 3, 4],
  ["16:9", 16, 9],
  ["9:16", 9, 16],
];

export function SizeField() {
  const { info, settings, change } = useStudio();
  const { multiple, width, height } = info.model;
  const { min_side_px: least, max_side_px: most } = info.limits;
  const start = Math.ceil(least / multiple) * multiple;
  const end = Math.min(most, Math.max(width, height) * 4);
  const sides = Array.from({ length: Math.floor((end - start) / multiple) + 1 }, (_, index) => start + index * multiple);
  const shaped = (across: number, down: number) => {
    const unit = Math.sqrt((width * height) / (across * down));
    const round = (side: number) => Math.max(start, Math.round(side / multiple) * multiple);
    return { width: round(across * unit), height: round(down * unit) };
  };
  const select = (name: "width" | "height", label: string) => (
    <label className="field">
      <span>{label}</span>
      <select value={settings[name]} onChange={(event) => change({ [name]: Number(event.target.value) })}>
        {[...new Set([...sides, settings[name]])].toSorted((a, b) => a - b).map((side) => (
          <option key={side}>{side}</option>
        ))}
      </select>
    </label>
  );
  return (
    <div className="size">
      <div className="row">
        {select("width", "Width")}
        <button
          type="button"
          className="icon"
          aria-label="Exchange width and height"
          onClick={() => change({ width: settings.height, height: settings.width })}
        >
          <Icon name="swap" />
        </button>
        {select("height", "Height")}
      </div>
      <div className="chips" role="group" aria-label="Shapes">
        {SHAPES.map(([label, across, down]) => {
          const size = shaped(across, down);
          const chosen = size.width === settings.width && size.height === settings.height;
          return (
            <button key={label} type="button" className="chip" aria-pressed={chosen} onClick={() => change(size)}>
              {label}
            </button>
          );
        })}
      </div>
    </div>
  );
}
