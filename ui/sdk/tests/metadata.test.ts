/** Settings in pictures, as this worker and other tools write them. */

import { expect, test } from "vitest";

import { parseParameters, readPngText } from "../src/index.ts";

test("prompts of several lines, and what does not look like a setting", () => {
  const text = "a cat, Steps: of stone\nsecond line\nNegative prompt: dog\nbird\nSteps: 30, Sampler: Euler a, CFG scale: 7.5, Seed: 5, Size: 512x768, Denoising strength: 0.4, Model: x";
  expect(parseParameters(text)).toEqual({
    prompt: "a cat, Steps: of stone\nsecond line",
    negative_prompt: "dog\nbird",
    loras: [],
    steps: 30,
    sampler: "Euler a",
    guidance_scale: 7.5,
    seed: 5,
    width: 512,
    height: 768,
    strength: 0.4,
    model: "x",
  });
  expect(parseParameters("a cat")).toBeNull();
});

test("LoRAs stand in the prompt, and are none of its words", () => {
  const text = "a <lora:ink:0.8> cat <lora:oil> <lora:dry:-1.25> <lora:bad:1e3>\nSteps: 4, Seed: 1";
  expect(parseParameters(text)).toMatchObject({
    prompt: "a cat <lora:bad:1e3>",
    loras: [
      { name: "ink", scale: 0.8 },
      { name: "oil", scale: 1 },
      { name: "dry", scale: -1.25 },
    ],
  });
});

test("what a network made larger tells no steps", () => {
  expect(parseParameters("upscaled\nSize: 256x128, Postprocess upscale by: 2, Postprocess upscaler: twice")).toEqual({
    prompt: "upscaled",
    negative_prompt: "",
    loras: [],
    width: 256,
    height: 128,
    upscale: { factor: 2, upscaler: "twice" },
  });
  const drawn = "a cat\nSteps: 4, Seed: 1, Size: 256x256, Denoising strength: 0.35, Hires upscale: 2, Hires upscaler: latent";
  expect(parseParameters(drawn)).toMatchObject({ strength: 0.35, upscale: { factor: 2, upscaler: "latent" } });
});

test("what is no PNG, or one cut off, has no text", () => {
  expect(readPngText(new Uint8Array())).toEqual(new Map());
  expect(readPngText(new TextEncoder().encode("no picture at all"))).toEqual(new Map());
  const cut = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0xff, 0xff, 0xff, 0xff, 0x74, 0x45, 0x58, 0x74, 0x61]);
  expect(readPngText(cut)).toEqual(new Map());
});

test("international text", () => {
  const body = new Uint8Array([...new TextEncoder().encode("parameters\0\0\0\0\0"), ...new TextEncoder().encode("é💚")]);
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, body.length);
  const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, ...length, 0x69, 0x54, 0x58, 0x74, ...body, 0, 0, 0, 0]);
  expect(readPngText(png).get("parameters")).toBe("é💚");
});
