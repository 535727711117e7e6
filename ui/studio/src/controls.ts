/** Control pictures on their way into a request: in the size that is drawn, and within what the worker takes. */

import type { JobRequest } from "@sd-worker/sdk";

import { coverWithin, toBase64, type Size } from "./picture.ts";
import type { ControlChoice } from "./settings.ts";

export interface PicturedControl extends ControlChoice {
  blob: Blob;
}

/** The request with its ControlNets. The worker makes pictures as large as what is drawn, so a smaller one is taken too. */
export async function withControls(request: JobRequest, controls: PicturedControl[], size: Size, bodyBytes: number): Promise<JobRequest> {
  const asked = controls.map(({ name, preprocessor, scale, start, end }) => ({ name, image: "", preprocessor, scale, start, end }));
  let room = bodyBytes - new Blob([JSON.stringify({ ...request, controls: asked })]).size;
  for (const [index, { blob }] of controls.entries()) {
    const share = room / (controls.length - index); // what one leaves is there for the next ones
    const picture = await coverWithin(blob, size, Math.floor(share / 4) * 3); // base64 has four characters for three bytes
    asked[index]!.image = await toBase64(picture);
    room -= asked[index]!.image.length;
  }
  return { ...request, controls: asked };
}
