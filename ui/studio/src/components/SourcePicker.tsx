/** The picture to begin with: dropped, pasted or picked. */

import { useCallback, useEffect, useState } from "react";

import { sizeOf } from "../picture.ts";
import { useStudio } from "../studio.ts";
import { BlobImage } from "./BlobImage.tsx";

interface Props {
  fit: "model" | "own";
  onFit: (fit: "model" | "own") => void;
  working: { width: number; height: number } | null;
}

export function SourcePicker({ fit, onFit, working }: Props) {
  const { source, setSource } = useStudio();
  const [over, setOver] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const take = useCallback(
    async (file: File | null | undefined) => {
      if (!file) return;
      try {
        setSource({ blob: file, ...(await sizeOf(file)) });
        setFault(null);
      } catch {
        setFault("That is no picture this browser can read.");
      }
    },
    [setSource],
  );
  useEffect(() => {
    const paste = (event: ClipboardEvent) => void take(Array.from(event.clipboardData?.files ?? []).find(isPicture));
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, [take]);
  return (
    <div className="source">
      <label
        className="drop"
        data-over={over}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          void take(Array.from(event.dataTransfer.files).find(isPicture));
        }}
      >
        {source && <BlobImage blob={source.blob} alt="" />}
        <span>{source ? "Another picture" : "Drop, paste or choose a picture"}</span>
        <input
          type="file"
          accept="image/png,image/jpeg,image/webp"
          className="visually-hidden"
          onChange={(event) => {
            void take(event.target.files?.[0]);
            event.target.value = "";
          }}
        />
      </label>
      {fault && <p className="fault" role="alert">{fault}</p>}
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

const isPicture = (file: File) => file.type.startsWith("image/");
