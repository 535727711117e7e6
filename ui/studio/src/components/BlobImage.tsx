/** A picture out of a Blob. */

import type { CSSProperties } from "react";

import { useObjectUrl } from "./useObjectUrl.ts";

export function BlobImage({ blob, alt, ...rest }: { blob: Blob; alt: string; className?: string; style?: CSSProperties }) {
  const url = useObjectUrl(blob);
  return url ? <img src={url} alt={alt} draggable={false} {...rest} /> : null;
}
