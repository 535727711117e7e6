/** What can be asked of a worker, task by task. The fields come from the worker's OpenAPI document. */

import type { paths } from "./schema.ts";

/** The body of `POST /v1/jobs`. */
export type JobRequest = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"];

type Common = Omit<JobRequest, "task" | "image" | "mask" | "strength">;

export type TextToImageRequest = Common;

export type ImageToImageRequest = Common & {
  /** Base64 PNG, JPEG or WebP, with or without a `data:` prefix. */
  image: string;
  /** Above 0 to 1: how far the result may leave the picture. */
  strength?: number;
};

export type InpaintingRequest = ImageToImageRequest & {
  /** Base64; white is repainted. */
  mask: string;
};
