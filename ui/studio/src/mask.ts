/** What is painted over a picture, as a list of deeds: undoing is replaying one fewer. Measures in picture pixels. */

import { canvasOf, toBlob, type Size } from "./picture.ts";
import { Store } from "./store.ts";

interface Point {
  x: number;
  y: number;
}

type Deed = { type: "stroke"; erase: boolean; size: number; points: Point[] } | { type: "invert" } | { type: "clear" };

export interface MaskState {
  /** Rises with every change, so that whoever shows the mask draws it again. */
  version: number;
  canUndo: boolean;
  canRedo: boolean;
  empty: boolean;
}

export class Mask extends Store<MaskState> {
  readonly size: Size;
  /** White where painted, transparent elsewhere. */
  readonly canvas: HTMLCanvasElement;
  #deeds: Deed[] = [];
  #undone: Deed[] = [];

  constructor(size: Size) {
    super({ version: 0, canUndo: false, canRedo: false, empty: true });
    this.size = size;
    this.canvas = canvasOf(size);
  }

  begin(point: Point, size: number, erase: boolean): void {
    this.#do({ type: "stroke", erase, size, points: [point] });
  }

  /** Goes on with the stroke that was begun last. */
  extend(point: Point): void {
    const last = this.#deeds.at(-1);
    if (last?.type !== "stroke") return;
    last.points.push(point);
    this.#apply({ ...last, points: last.points.slice(-2) });
    this.#tell();
  }

  invert(): void {
    this.#do({ type: "invert" });
  }

  clear(): void {
    this.#do({ type: "clear" });
  }

  undo(): void {
    const last = this.#deeds.pop();
    if (last) this.#undone.push(last);
    this.#replay();
  }

  redo(): void {
    const next = this.#undone.pop();
    if (next) this.#deeds.push(next);
    this.#replay();
  }

  /** As the worker wants it: white on black. Feathering fades inwards, so nothing that was not painted is touched. */
  async export(feather: number): Promise<Blob> {
    const canvas = canvasOf(this.size);
    const context = canvas.getContext("2d")!;
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.feathered(feather), 0, 0);
    return toBlob(canvas, "image/png");
  }

  feathered(feather: number): HTMLCanvasElement {
    if (feather === 0) return this.canvas;
    const canvas = canvasOf(this.size);
    const context = canvas.getContext("2d")!;
    context.filter = `blur(${feather}px)`;
    context.drawImage(this.canvas, 0, 0);
    context.filter = "none";
    context.globalCompositeOperation = "destination-in";
    context.drawImage(this.canvas, 0, 0);
    return canvas;
  }

  #do(deed: Deed): void {
    this.#deeds.push(deed);
    this.#undone = [];
    this.#apply(deed);
    this.#tell();
  }

  #replay(): void {
    this.#context.clearRect(0, 0, this.size.width, this.size.height);
    for (const deed of this.#deeds) this.#apply(deed);
    this.#tell();
  }

  get #context(): CanvasRenderingContext2D {
    return this.canvas.getContext("2d", { willReadFrequently: true })!;
  }

  #apply(deed: Deed): void {
    const context = this.#context;
    const { width, height } = this.size;
    context.save();
    if (deed.type === "clear") context.clearRect(0, 0, width, height);
    if (deed.type === "invert") {
      context.globalCompositeOperation = "xor";
      context.fillStyle = "white";
      context.fillRect(0, 0, width, height);
    }
    if (deed.type === "stroke") {
      context.globalCompositeOperation = deed.erase ? "destination-out" : "source-over";
      context.strokeStyle = context.fillStyle = "white";
      context.lineWidth = deed.size;
      context.lineCap = context.lineJoin = "round";
      const [first, ...rest] = deed.points;
      context.beginPath(); // a line of no length leaves nothing, a click leaves a dot
      context.arc(first!.x, first!.y, deed.size / 2, 0, 2 * Math.PI);
      context.fill();
      context.beginPath();
      context.moveTo(first!.x, first!.y);
      for (const { x, y } of rest) context.lineTo(x, y);
      context.stroke();
    }
    context.restore();
  }

  #tell(): void {
    const { width, height } = this.size;
    const pixels = this.#context.getImageData(0, 0, width, height).data;
    let empty = true;
    for (let at = 3; at < pixels.length && empty; at += 4) empty = pixels[at]! < 128;
    this.set({
      version: this.getState().version + 1,
      canUndo: this.#deeds.length > 0,
      canRedo: this.#undone.length > 0,
      empty,
    });
  }
}
