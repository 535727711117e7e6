/** Pictures on their way into a request: within what the worker takes, control pictures in the size that is drawn. */

import type { JobRequest } from "@sd-worker/sdk";

import { coverWithin, toBase64, within, type Size } from "./picture.ts";
import type { ControlChoice } from "./settings.ts";

export interface PicturedControl extends ControlChoice {
  blob: Blob;
}

/** The request with the picture that it begins with; half of the body is left where control pictures come, too. */
export async function withImage(request: JobRequest, blob: Blob, shared: boolean, bodyBytes: number): Promise<JobRequest> {
  const room = roomIn({ ...request, image: "" }, bodyBytes);
  const picture = await within(blob, bytesIn(shared ? room / 2 : room));
  return { ...request, image: await toBase64(picture) };
}

/** The request with its ControlNets. The worker makes pictures as large as what is drawn, so a smaller one is taken too. */
export async function withControls(request: JobRequest, controls: PicturedControl[], size: Size, bodyBytes: number): Promise<JobRequest> {
  const asked = controls.map(({ name, preprocessor, scale, start, end }) => ({ name, image: "", preprocessor, scale, start, end }));
  let room = roomIn({ ...request, controls: asked }, bodyBytes);
  for (const [index, { blob }] of controls.entries()) {
    const share = room / (controls.length - index); // what one leaves is there for the next ones
    const picture = await coverWithin(blob, size, bytesIn(share));
    asked[index]!.image = await toBase64(picture);
    room -= asked[index]!.image.length;
  }
  return { ...request, controls: asked };
}

function roomIn(request: JobRequest, bodyBytes: number): number {
  return bodyBytes - new Blob([JSON.stringify(request)]).size;
}

/** Base64 has four characters for three bytes. */
function bytesIn(characters: number): number {
  return Math.floor(characters / 4) * 3;
}
