/** What the person has set, and how it becomes a request. Knows the worker's fields, nothing of how they are shown. */

import type { Info, JobRequest, Parameters } from "@sd-worker/sdk";

import { memorize, recall } from "./memory.ts";

export type Task = "text-to-image" | "image-to-image" | "inpainting" | "upscale";

export interface AdapterChoice {
  name: string;
  scale: number;
}

export interface ControlChoice {
  /** Tells it from another of the same name. */
  key: string;
  name: string;
  /** The id of its picture, which is known as long as the page is open; null while there is none. */
  picture: string | null;
  preprocessor: "none" | "canny";
  scale: number;
  start: number;
  end: number;
}

export interface Settings {
  prompt: string;
  negative: string;
  width: number;
  height: number;
  steps: number;
  guidance: number;
  sampler: string;
  seed: number;
  /** Locked: the same seed again; otherwise a new one for every job. */
  seedLocked: boolean;
  count: number;
  strength: number;
  /** Of upscaling, which keeps more of the picture. */
  upscaleStrength: number;
  factor: 2 | 4;
  upscaler: string;
  loras: AdapterChoice[];
  controls: ControlChoice[];
  /** Whose defaults these are. */
  model: string;
}

/** Settings as a picture remembers them. */
export type Drawn = Omit<Settings, "seedLocked"> & { task: Task };

/** What a job or a picture is called; an upscaler may have needed no prompt. */
export function titleOf({ prompt }: Drawn): string {
  return prompt.trim() || "No prompt";
}

const NAME = "sd-worker.settings";
const SEEDS = 2 ** 32;
const PREVIEW_SIDE = 384;

/** Whether a number can be one: above 2^53 it would be another one. */
export function isSeed(seed: number): boolean {
  return Number.isSafeInteger(seed) && seed >= 0;
}

export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]! % SEEDS;
}

export function defaults(info: Info): Settings {
  const { model } = info;
  return {
    prompt: "",
    negative: "",
    width: model.width,
    height: model.height,
    steps: model.steps,
    guidance: model.guidance_scale,
    sampler: model.sampler,
    seed: randomSeed(),
    seedLocked: false,
    count: 1,
    strength: 0.8,
    upscaleStrength: 0.35,
    factor: 2,
    upscaler: info.upscalers?.[0] ?? "latent",
    loras: [],
    controls: [],
    model: model.id,
  };
}

/** What was set before, if it was for this model; another model's numbers would not fit. */
export function readSettings(info: Info): Settings {
  const fresh = defaults(info);
  try {
    const kept = JSON.parse(recall(NAME) ?? "{}") as Partial<Settings>;
    if (kept.model !== fresh.model) return { ...fresh, prompt: kept.prompt ?? "", negative: kept.negative ?? "" };
    const known = { ...fresh, ...kept };
    if (!info.samplers.includes(known.sampler)) known.sampler = fresh.sampler;
    if (!info.upscalers?.includes(known.upscaler)) known.upscaler = fresh.upscaler;
    known.loras = known.loras.filter(({ name }) => loraNames(info).includes(name));
    return known;
  } catch {
    return fresh;
  }
}

export function keepSettings(settings: Settings): void {
  memorize(NAME, JSON.stringify(settings));
}

/** Whether a network makes the picture larger and not the model: then there is nothing to sample. */
export function isByNetwork({ upscaler }: Pick<Settings, "upscaler">, task: Task): boolean {
  return task === "upscale" && upscaler !== "latent";
}

/** What a picture was really made with: without what the form keeps for other jobs while a network needs none of it. */
export function usedFor(drawn: Drawn): Partial<Drawn> & Pick<Drawn, "task"> {
  const { task, prompt, width, height, factor, upscaler } = drawn;
  return isByNetwork(drawn, task) ? { task, prompt, width, height, factor, upscaler } : drawn;
}

/** The body of the job, without pictures. The image tasks take the size of the picture that goes with them. */
export function requestOf(settings: Settings, task: Task, info: Info): JobRequest {
  const upscale = { factor: settings.factor, upscaler: settings.upscaler };
  if (isByNetwork(settings, task)) {
    const preview = { every: 1, size: PREVIEW_SIDE, format: "webp" as const };
    return { task, prompt: settings.prompt.trim() || "upscaled", upscale, preview, model: info.model.id };
  }
  return {
    task,
    prompt: settings.prompt.trim(),
    ...(settings.negative.trim() && { negative_prompt: settings.negative.trim() }),
    ...(task === "text-to-image" && { width: settings.width, height: settings.height }),
    steps: settings.steps,
    guidance_scale: settings.guidance,
    sampler: settings.sampler,
    seed: settings.seed,
    num_images: settings.count,
    ...(task !== "text-to-image" && { strength: task === "upscale" ? settings.upscaleStrength : settings.strength }),
    ...(task === "upscale" && { upscale }),
    ...(settings.loras.length > 0 && { loras: settings.loras }),
    preview: { every: Math.max(1, Math.round(settings.steps / 10)), size: PREVIEW_SIDE, format: "webp" },
    model: info.model.id,
  };
}

/** Another picture's settings in place of one's own, as far as this worker offers them. */
export function reuse(settings: Settings, from: Partial<Drawn>, info: Info): Settings {
  const { task, model: _model, count: _count, sampler, upscaler, width, height, ...rest } = from;
  return {
    ...settings,
    ...rest,
    // The size of an upscaled picture is none to draw in.
    ...(task !== "upscale" && width !== undefined && height !== undefined && { width, height }),
    sampler: sampler && info.samplers.includes(sampler) ? sampler : settings.sampler,
    upscaler: upscaler && info.upscalers?.includes(upscaler) ? upscaler : settings.upscaler,
    loras: (from.loras ?? settings.loras).filter(({ name }) => loraNames(info).includes(name)),
    seedLocked: from.seed !== undefined,
    model: info.model.id,
  };
}

/** What a picture's own text says. */
export function fromParameters(read: Parameters, info: Info): Partial<Drawn> & { task: Task } {
  const { negative_prompt: negative, guidance_scale: guidance, strength, seed, upscale, model: _model, ...rest } = read;
  const task = taskOf(read, info);
  return {
    ...rest,
    task,
    negative,
    ...(seed !== undefined && isSeed(seed) && { seed }),
    ...(guidance !== undefined && { guidance }),
    ...(strength !== undefined && (task === "upscale" ? { upscaleStrength: strength } : { strength })),
    ...(task === "upscale" && upscale && { upscaler: upscale.upscaler, factor: upscale.factor === 4 ? 4 : 2 }),
  };
}

/** The text does not name it; it says what only some tasks have. */
function taskOf({ strength, upscale }: Parameters, info: Info): Task {
  if (upscale && info.upscalers?.includes(upscale.upscaler)) return "upscale";
  // Other tools make a picture larger in the same go, and then tell of a strength too.
  return strength === undefined || upscale ? "text-to-image" : "image-to-image";
}

/** Adapters that fit the loaded model; info also names those that do not. */
export function loraNames(info: Info): string[] {
  return info.loras.filter((one) => one.fits !== false).map((one) => one.name);
}

/** ControlNets that fit the loaded model. None for upscaling, which draws no whole picture for a control picture to guide. */
export function controlNames(info: Info, task: Task): string[] {
  return task === "upscale" ? [] : info.controls.filter((one) => one.fits).map((one) => one.name);
}

/** Those that are set, as far as this worker offers them. */
export function controlsOf(settings: Settings, task: Task, info: Info): ControlChoice[] {
  const names = controlNames(info, task);
  return settings.controls.filter(({ name }) => names.includes(name));
}
