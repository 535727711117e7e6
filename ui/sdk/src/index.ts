/** Client of sd-worker: `new Client({ baseUrl, token })`, then `generate`, or `submit` and `follow`. */

export { Client, randomKey, type ClientOptions, type GenerateOptions, type SubmitOptions } from "./client.ts";
export * from "./events.ts";
export type { FollowOptions } from "./follow.ts";
export type { Adapter, Info, Limits, Readiness } from "./info.ts";
export { hasEnded, type ImageInfo, type Job, type Status, type Timings } from "./job.ts";
export { parseParameters, type Parameters } from "./parameters.ts";
export { readPngText } from "./png.ts";
export { WorkerError, type FieldFault } from "./problem.ts";
export type { ImageToImageRequest, InpaintingRequest, JobRequest, TextToImageRequest } from "./request.ts";
export { isToken } from "./token.ts";
export { advance, JobWatch, stateOf, unknownJob, type JobState, type Turns } from "./watch.ts";
