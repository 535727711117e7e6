/** A finished picture, large, with its siblings of the same job and what it was made from. */

import type { Picture } from "../gallery.ts";
import { titleOf, usedFor } from "../settings.ts";
import { usePictures, useStudio } from "../studio.ts";
import { BeforeAfter } from "./BeforeAfter.tsx";
import { BlobImage } from "./BlobImage.tsx";
import { secondsText } from "./JobBar.tsx";
import { PictureActions } from "./PictureActions.tsx";

export function PictureStage({ picture }: { picture: Picture }) {
  const { select } = useStudio();
  const siblings = usePictures().filter(({ jobId }) => jobId === picture.jobId);
  const { drawn } = picture;
  const { seed, steps, sampler, upscaler } = usedFor(drawn);
  return (
    <>
      <figure
        className="canvas"
        style={{ aspectRatio: `${picture.width} / ${picture.height}` }}
        data-wide={picture.width >= picture.height}
        data-picture={picture.id}
      >
        {picture.source ? (
          <BeforeAfter before={picture.source} after={picture.blob} alt={titleOf(drawn)} />
        ) : (
          <BlobImage className="finished" blob={picture.blob} alt={titleOf(drawn)} />
        )}
      </figure>
      {siblings.length > 1 && (
        <div className="siblings" role="group" aria-label="Pictures of this job">
          {siblings.map((one) => (
            <button key={one.id} type="button" className="thumb" aria-pressed={one.id === picture.id} aria-label={`Seed ${one.drawn.seed}`} onClick={() => select(one.id)}>
              <BlobImage blob={one.thumbnail} alt="" />
            </button>
          ))}
        </div>
      )}
      <p className="caption">
        <span className="caption-prompt">{drawn.prompt}</span>
        <span className="quiet">
          {picture.width} × {picture.height} · {seed === undefined ? upscaler : `seed ${seed} · ${steps} steps · ${sampler}`}
          {picture.seconds !== null && ` · ${secondsText(picture.seconds)}`}
        </span>
      </p>
      {picture.warnings && picture.warnings.length > 0 && (
        <ul className="warnings" aria-label="Warnings of the worker">
          {picture.warnings.map((warning) => (
            <li key={warning}>{warning}</li>
          ))}
        </ul>
      )}
      {picture.fleeting && (
        <p className="fault" role="alert">
          This browser could not keep the picture. Download it before you leave the page.
        </p>
      )}
      <PictureActions picture={picture} />
    </>
  );
}
