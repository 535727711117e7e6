/** Pictures in the browser: decoding, sizes that a model takes, base64, small copies. */

import type { Info } from "@sd-worker/sdk";

export interface Size {
  width: number;
  height: number;
}

const THUMBNAIL_SIDE = 320;
const LEAST_SIDE = 16;

/** The size to work in: of the same shape, near the model's own area, in its multiples and within the worker's limits. */
export function fitSize(own: Size, info: Info, wanted: "model" | "own"): Size {
  const { multiple, width, height } = info.model;
  const { min_side_px: least, max_side_px: most, max_pixels: pixels } = info.limits;
  const area = wanted === "model" ? width * height : Math.min(pixels, own.width * own.height);
  const scale = Math.sqrt(area / (own.width * own.height));
  const round = (side: number): number => {
    const inMultiples = Math.round((side * scale) / multiple) * multiple;
    return Math.min(Math.floor(most / multiple) * multiple, Math.max(Math.ceil(least / multiple) * multiple, inMultiples));
  };
  return { width: round(own.width), height: round(own.height) };
}

/** The picture scaled and cropped to exactly this size, as PNG. */
export async function cover(blob: Blob, size: Size): Promise<Blob> {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.max(size.width / bitmap.width, size.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const canvas = canvasOf(size);
  const context = canvas.getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (size.width - width) / 2, (size.height - height) / 2, width, height);
  bitmap.close();
  return toBlob(canvas, "image/png");
}

/** The same, made smaller where it would have more bytes than that. */
export async function coverWithin(blob: Blob, size: Size, bytes: number): Promise<Blob> {
  for (let scale = 1; ; scale *= 0.8) {
    const [width, height] = [Math.round(size.width * scale), Math.round(size.height * scale)];
    const made = await cover(blob, { width, height });
    if (made.size <= bytes || Math.min(width, height) <= LEAST_SIDE) return made;
  }
}

export async function sizeOf(blob: Blob): Promise<Size> {
  const bitmap = await createImageBitmap(blob);
  const size = { width: bitmap.width, height: bitmap.height };
  bitmap.close();
  return size;
}

export async function thumbnailOf(blob: Blob): Promise<Blob> {
  const size = await sizeOf(blob);
  const scale = Math.min(1, THUMBNAIL_SIDE / Math.max(size.width, size.height));
  const small = { width: Math.max(1, Math.round(size.width * scale)), height: Math.max(1, Math.round(size.height * scale)) };
  return scale === 1 ? blob : cover(blob, small);
}

export async function toBase64(blob: Blob): Promise<string> {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

export function canvasOf({ width, height }: Size): HTMLCanvasElement {
  return Object.assign(document.createElement("canvas"), { width, height });
}

export function toBlob(canvas: HTMLCanvasElement, type: string): Promise<Blob> {
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture cannot be encoded"))), type),
  );
}
