/** Draws from a prompt. */

import type { TextToImageRequest } from "@sd-worker/sdk";

import { useTask, type TaskRun } from "./useTask.ts";

export function useTextToImage(): TaskRun<TextToImageRequest> {
  return useTask<TextToImageRequest>("text-to-image");
}
