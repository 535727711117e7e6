/** Draws from a prompt and a picture. */

import type { ImageToImageRequest } from "@sd-worker/sdk";

import { useTask, type TaskRun } from "./useTask.ts";

export function useImageToImage(): TaskRun<ImageToImageRequest> {
  return useTask<ImageToImageRequest>("image-to-image");
}
