/** Where a picture is dropped or chosen, and taken from the whole page where that is said; it shows the one that is there. */

import { useCallback, useEffect, useState } from "react";

import { sizeOf } from "../picture.ts";
import type { Source } from "../studio.ts";
import { BlobImage } from "./BlobImage.tsx";

interface Props {
  picture: Source | null;
  onPicture: (picture: Source) => void;
  /** Takes what is pasted or dropped anywhere on the page; for one of these at a time. */
  wholePage?: boolean;
}

export function PictureDrop({ picture, onPicture, wholePage = false }: Props) {
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
    if (!wholePage) return;
    const takeOf = (data: DataTransfer | null) => void take(Array.from(data?.files ?? []).find(isPicture));
    const paste = (event: ClipboardEvent) => takeOf(event.clipboardData);
    const drag = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return; // text goes where it is dropped
      if (event.type === "drop" && !event.defaultPrevented) takeOf(event.dataTransfer);
      event.preventDefault(); // the browser would open the file
    };
    addEventListener("paste", paste);
    addEventListener("dragover", drag);
    addEventListener("drop", drag);
    return () => {
      removeEventListener("paste", paste);
      removeEventListener("dragover", drag);
      removeEventListener("drop", drag);
    };
  }, [wholePage, take]);
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
        <span>{picture ? "Another picture" : wholePage ? "Drop, paste or choose a picture" : "Drop or choose a picture"}</span>
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
