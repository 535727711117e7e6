/** React hooks for sd-worker: put a `WorkerProvider` around, then `useTextToImage()` and its kin. */

export { useClient, WorkerProvider } from "./context.ts";
export { useImageToImage } from "./useImageToImage.ts";
export { useInpainting } from "./useInpainting.ts";
export { useJob, type FollowedJob } from "./useJob.ts";
export { useJobWatch } from "./useJobWatch.ts";
export type { TaskRun } from "./useTask.ts";
export { useTextToImage } from "./useTextToImage.ts";
export { useWorker, type WorkerState } from "./useWorker.ts";
