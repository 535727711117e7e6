/** What can be done with a finished picture. */

import type { Picture } from "../gallery.ts";
import { openPage, openPageOf } from "../route.ts";
import { reuse, usedFor } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { focusBeside } from "./focus.ts";
import { Icon } from "./Icon.tsx";
import { useObjectUrl } from "./useObjectUrl.ts";

export function PictureActions({ picture }: { picture: Picture }) {
  const { info, settings, change, setSource, select, gallery } = useStudio();
  const url = useObjectUrl(picture.blob);
  const type = picture.blob.type.split("/")[1] ?? "png";
  const begin = (page: "image" | "inpaint" | "upscale") => {
    setSource({ blob: picture.blob, width: picture.width, height: picture.height });
    change({ prompt: picture.drawn.prompt, negative: picture.drawn.negative });
    select(null);
    openPage(page);
  };
  return (
    <div className="actions" role="group" aria-label="This picture">
      <a className="button" href={url} download={`${picture.id}.${type}`}>
        <Icon name="download" /> Download
      </a>
      <button
        type="button"
        onClick={() => {
          change(reuse(settings, usedFor(picture.drawn), info));
          openPageOf(picture.drawn.task);
        }}
      >
        <Icon name="reuse" /> Reuse settings
      </button>
      {info.tasks.includes("image-to-image") && (
        <button type="button" onClick={() => begin("image")}>
          <Icon name="image" /> To image
        </button>
      )}
      {info.tasks.includes("inpainting") && (
        <button type="button" onClick={() => begin("inpaint")}>
          <Icon name="brush" /> Inpaint
        </button>
      )}
      {info.tasks.includes("upscale") && (
        <button type="button" onClick={() => begin("upscale")}>
          <Icon name="enlarge" /> Upscale
        </button>
      )}
      <button
        type="button"
        onClick={() => {
          focusBeside(picture.id);
          select(null);
          void gallery.remove(picture.id);
        }}
      >
        <Icon name="trash" /> Delete
      </button>
    </div>
  );
}
