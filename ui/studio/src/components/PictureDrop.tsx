/** Where a picture is dropped or chosen, and pasted where that is said; it shows the one that is there. */

import { useCallback, useEffect, useState } from "react";

import { sizeOf } from "../picture.ts";
import type { Source } from "../studio.ts";
import { BlobImage } from "./BlobImage.tsx";

interface Props {
  picture: Source | null;
  onPicture: (picture: Source) => void;
  /** Takes what is pasted anywhere on the page; for one of these at a time. */
  pasted?: boolean;
}

export function PictureDrop({ picture, onPicture, pasted = false }: Props) {
  const [over, setOver] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const take = useCallback(
    async (file: File | null | undefined) => {
      if (!file) return;
      try {
        const blob = new Blob([await file.arrayBuffer()], { type: file.type }); // the file may be written over before it is used
        onPicture({ blob, ...(await sizeOf(blob)) });
        setFault(null);
      } catch {
        setFault("That is no picture this browser can read.");
      }
    },
    [onPicture],
  );
  useEffect(() => {
    if (!pasted) return;
    const paste = (event: ClipboardEvent) => void take(Array.from(event.clipboardData?.files ?? []).find(isPicture));
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, [pasted, take]);
  return (
    <div className="picture-drop">
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
        {picture && <BlobImage blob={picture.blob} alt="" />}
        <span>{picture ? "Another picture" : pasted ? "Drop, paste or choose a picture" : "Drop or choose a picture"}</span>
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
    </div>
  );
}

const isPicture = (file: File) => file.type.startsWith("image/");
