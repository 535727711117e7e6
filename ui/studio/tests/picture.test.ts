/** Sizes that pictures are scaled to before they are sent. */

import type { Info } from "@sd-worker/sdk";
import { expect, test } from "vitest";

import { fitSize } from "../src/picture.ts";

const info = {
  model: { multiple: 64, width: 512, height: 512 },
  limits: { min_side_px: 64, max_side_px: 2048, max_pixels: 1536 * 1536 },
} as unknown as Info;
const SIDES = [1, 70, 333, 512, 800, 1200, 2000, 4096];

test("every picture becomes one that the worker takes, also made larger", () => {
  for (const width of SIDES)
    for (const height of SIDES)
      for (const wanted of ["model", "own"] as const)
        for (const factor of [1, 2, 4]) {
          const size = fitSize({ width, height }, info, wanted, factor);
          expect([size.width % 64, size.height % 64]).toEqual([0, 0]);
          expect(Math.min(size.width, size.height)).toBeGreaterThanOrEqual(64);
          expect(Math.max(size.width, size.height) * factor).toBeLessThanOrEqual(2048);
          expect(size.width * size.height * factor ** 2).toBeLessThanOrEqual(1536 * 1536);
        }
});

test("a picture keeps its shape", () => {
  expect(fitSize({ width: 1200, height: 800 }, info, "own", 2)).toEqual({ width: 896, height: 576 });
  expect(fitSize({ width: 4096, height: 1024 }, info, "own")).toEqual({ width: 2048, height: 512 });
  expect(fitSize({ width: 640, height: 320 }, info, "own", 2)).toEqual({ width: 640, height: 320 });
});
