/** Two pictures of one size over each other, with a line to move between them. */

import { useState } from "react";

import { BlobImage } from "./BlobImage.tsx";

export function BeforeAfter({ before, after, alt }: { before: Blob; after: Blob; alt: string }) {
  const [share, setShare] = useState(50);
  return (
    <div className="before-after">
      <BlobImage blob={after} alt={alt} />
      <BlobImage blob={before} alt="Before" style={{ clipPath: `inset(0 ${100 - share}% 0 0)` }} />
      <div className="before-after-line" style={{ left: `${share}%` }} aria-hidden="true" />
      <input
        type="range"
        aria-label="Before and after"
        min={0}
        max={100}
        value={share}
        onChange={(event) => setShare(Number(event.target.value))}
      />
    </div>
  );
}
