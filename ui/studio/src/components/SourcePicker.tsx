/** The picture to begin with: dropped, pasted or picked; and the size that it is worked on in. */

import { useStudio } from "../studio.ts";
import { PictureDrop } from "./PictureDrop.tsx";

interface Props {
  fit: "model" | "own";
  onFit: (fit: "model" | "own") => void;
  working: { width: number; height: number } | null;
}

export function SourcePicker({ fit, onFit, working }: Props) {
  const { source, setSource } = useStudio();
  return (
    <div className="source">
      <PictureDrop picture={source} onPicture={setSource} wholePage />
      {source && (
        <label className="field">
          <span>Size{working && `: ${working.width} × ${working.height}`}</span>
          <select value={fit} onChange={(event) => onFit(event.target.value as "model" | "own")}>
            <option value="model">As the model likes it</option>
            <option value="own">The picture’s own</option>
          </select>
        </label>
      )}
    </div>
  );
}
