/** Pictures in the browser: decoding, sizes that a model takes, base64, small copies. */

import type { Info } from "@sd-worker/sdk";

export interface Size {
  width: number;
  height: number;
}

const THUMBNAIL_SIDE = 320;
const LEAST_SIDE = 16;

/**
 * The size to work in: of the same shape, near the model's own area, in its multiples, and within the worker's limits
 * once it was made larger by `factor`.
 */
export function fitSize(own: Size, info: Info, wanted: "model" | "own", factor = 1): Size {
  const { multiple, width, height } = info.model;
  const least = Math.ceil(info.limits.min_side_px / multiple) * multiple;
  const most = Math.floor(info.limits.max_side_px / factor / multiple) * multiple;
  const pixels = info.limits.max_pixels / factor ** 2;
  const area = Math.min(pixels, wanted === "model" ? width * height : own.width * own.height);
  const scale = Math.min(Math.sqrt(area / (own.width * own.height)), most / Math.max(own.width, own.height));
  const rounded = (round: (multiples: number) => number): Size => {
    const side = (length: number) => Math.min(most, Math.max(least, round((length * scale) / multiple) * multiple));
    return { width: side(own.width), height: side(own.height) };
  };
  const nearest = rounded(Math.round);
  return nearest.width * nearest.height <= pixels ? nearest : rounded(Math.floor);
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

/** The same picture in no more bytes than that: as it is, or as JPEG, in which photographs are far smaller. */
export async function within(blob: Blob, bytes: number): Promise<Blob> {
  let made = blob;
  for (let quality = 0.95; made.size > bytes && quality > 0.3; quality -= 0.1) made = await toJpeg(blob, quality);
  return made;
}

/** What is transparent lies on white, as the worker has it. */
async function toJpeg(blob: Blob, quality: number): Promise<Blob> {
  const bitmap = await createImageBitmap(blob);
  const canvas = canvasOf(bitmap);
  const context = canvas.getContext("2d")!;
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return toBlob(canvas, "image/jpeg", quality);
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

export function toBlob(canvas: HTMLCanvasElement, type: string, quality?: number): Promise<Blob> {
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture cannot be encoded"))), type, quality),
  );
}
