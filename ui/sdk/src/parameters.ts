/** The `parameters` text that Stable Diffusion tools write into pictures, read back into the fields of a request. */

export interface Parameters {
  /** Without the tags that name LoRAs. */
  prompt: string;
  negative_prompt: string;
  loras: { name: string; scale: number }[];
  steps?: number;
  sampler?: string;
  guidance_scale?: number;
  seed?: number;
  width?: number;
  height?: number;
  strength?: number;
  /** Where the picture was made larger. */
  upscale?: { factor: number; upscaler: string };
  model?: string;
}

/** How LoRAs stand in a prompt: name, and scale unless that is 1. */
const LORA_TAG = / ?<lora:([^:<>]{1,200})(?::(-?\d{1,3}(?:\.\d{1,6})?))?>/g;
/** An upscaler that is a network samples nothing, so its pictures tell no steps. */
const SETTINGS = /^(?:Steps: \d+|Size: \d+x\d+, Postprocess upscale by: )/;

/** Null where the text has no line of settings. */
export function parseParameters(text: string): Parameters | null {
  const lines = text.replace(/\r\n?/g, "\n").trimEnd().split("\n");
  const settingsAt = lines.findLastIndex((line) => SETTINGS.test(line));
  if (settingsAt < 0) return null;
  const negativeAt = lines.findIndex((line, index) => index < settingsAt && line.startsWith("Negative prompt: "));
  const promptEnd = negativeAt < 0 ? settingsAt : negativeAt;
  const negative = negativeAt < 0 ? "" : lines.slice(negativeAt, settingsAt).join("\n").slice("Negative prompt: ".length);
  const settings = new Map(
    Array.from((lines[settingsAt] ?? "").matchAll(/([^:,]+):\s*("[^"]*"|[^,]*)(?:,\s*|$)/g), (match) => [
      (match[1] ?? "").trim(),
      (match[2] ?? "").trim(),
    ]),
  );
  const prompt = lines.slice(0, promptEnd).join("\n");
  const loras = Array.from(prompt.matchAll(LORA_TAG), ([, name = "", scale = "1"]) => ({ name, scale: Number(scale) }));
  const found: Parameters = { prompt: prompt.replace(LORA_TAG, "").trim(), negative_prompt: negative, loras };
  const number = (name: string): number | undefined => {
    const value = settings.get(name);
    return value === undefined || value === "" || Number.isNaN(Number(value)) ? undefined : Number(value);
  };
  const put = <Name extends keyof Parameters>(name: Name, value: Parameters[Name] | undefined): void => {
    if (value !== undefined) found[name] = value;
  };
  put("steps", number("Steps"));
  put("guidance_scale", number("CFG scale"));
  put("seed", number("Seed"));
  put("strength", number("Denoising strength") ?? number("Strength"));
  put("sampler", settings.get("Sampler"));
  put("model", settings.get("Model"));
  const size = /^(\d+)x(\d+)$/.exec(settings.get("Size") ?? "");
  if (size) {
    put("width", Number(size[1]));
    put("height", Number(size[2]));
  }
  const factor = number("Postprocess upscale by") ?? number("Hires upscale");
  const upscaler = settings.get("Postprocess upscaler") ?? settings.get("Hires upscaler");
  if (factor !== undefined && upscaler !== undefined) put("upscale", { factor, upscaler });
  return found;
}
