/** The picture to begin with, in the size that is worked in. */

import type { Info } from "@sd-worker/sdk";
import { useEffect, useState } from "react";

import { cover, fitSize } from "./picture.ts";
import type { Source } from "./studio.ts";

/** Null while there is none, and while it is being scaled. */
export function useWorkingPicture(source: Source | null, fit: "model" | "own", factor: number, info: Info): Source | null {
  const [working, setWorking] = useState<Source | null>(null);
  const size = source && fitSize(source, info, fit, factor);
  useEffect(() => {
    let wanted = true;
    setWorking(null);
    if (source && size) void cover(source.blob, size).then((blob) => wanted && setWorking({ blob, ...size }));
    return () => {
      wanted = false;
    };
  }, [source, size?.width, size?.height]);
  return working;
}
