/** Repaints the white part of a mask. */

import type { InpaintingRequest } from "@sd-worker/sdk";

import { useTask, type TaskRun } from "./useTask.ts";

export function useInpainting(): TaskRun<InpaintingRequest> {
  return useTask<InpaintingRequest>("inpainting");
}
