/** Painting over the picture what shall be drawn anew: brush, eraser, and what undoes them. */

import { useEffect, useRef, useState, useSyncExternalStore, type KeyboardEvent, type PointerEvent } from "react";

import type { Mask } from "../mask.ts";
import { BlobImage } from "./BlobImage.tsx";
import { Icon } from "./Icon.tsx";
import { NumberField } from "./NumberField.tsx";

interface Props {
  picture: Blob;
  mask: Mask;
  feather: number;
  onFeather: (pixels: number) => void;
}

export function MaskEditor({ picture, mask, feather, onFeather }: Props) {
  const { width, height } = mask.size;
  const longest = Math.max(width, height);
  const state = useSyncExternalStore(mask.subscribe, mask.getState);
  const [erase, setErase] = useState(false);
  const [size, setSize] = useState(Math.round(longest / 6));
  const [cursor, setCursor] = useState<{ x: number; y: number } | null>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const painting = useRef(false);

  useEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    context.clearRect(0, 0, width, height);
    context.drawImage(mask.feathered(feather), 0, 0);
    context.globalCompositeOperation = "source-in"; // the mask is white; it is shown in the accent colour
    context.fillStyle = getComputedStyle(canvas.current!).color;
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-atop"; // hatched, so that it is seen on a picture of the same colour
    context.strokeStyle = "white";
    context.lineWidth = longest / 128;
    context.beginPath();
    for (let at = -height; at < width; at += longest / 16) {
      context.moveTo(at, height);
      context.lineTo(at + height, 0);
    }
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }, [mask, state.version, feather, width, height, longest]);

  const place = (event: PointerEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * width, y: ((event.clientY - box.top) / box.height) * height };
  };
  const onKey = (event: KeyboardEvent) => {
    const moves: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    const at = cursor ?? { x: width / 2, y: height / 2 };
    if (move) {
      const by = Math.max(1, size / 4);
      const next = {
        x: Math.min(width, Math.max(0, at.x + move[0] * by)),
        y: Math.min(height, Math.max(0, at.y + move[1] * by)),
      };
      setCursor(next);
      if (event.shiftKey) mask.begin(next, size, erase);
    } else if (event.key === " ") mask.begin(at, size, erase);
    else if (event.key === "[" || event.key === "]") setSize(Math.min(longest, Math.max(2, Math.round(size * (event.key === "]" ? 1.25 : 0.8)))));
    else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") event.shiftKey ? mask.redo() : mask.undo();
    else return;
    event.preventDefault();
  };
  return (
    <>
      <div className="tools" role="toolbar" aria-label="Mask">
        <button type="button" aria-pressed={!erase} onClick={() => setErase(false)}><Icon name="brush" /> Brush</button>
        <button type="button" aria-pressed={erase} onClick={() => setErase(true)}><Icon name="eraser" /> Eraser</button>
        <button type="button" className="icon" aria-label="Undo" disabled={!state.canUndo} onClick={() => mask.undo()}><Icon name="undo" /></button>
        <button type="button" className="icon" aria-label="Redo" disabled={!state.canRedo} onClick={() => mask.redo()}><Icon name="redo" /></button>
        <button type="button" onClick={() => mask.invert()}><Icon name="invert" /> Invert</button>
        <button type="button" disabled={state.empty} onClick={() => mask.clear()}><Icon name="trash" /> Clear</button>
      </div>
      <figure className="canvas mask" style={{ aspectRatio: `${width} / ${height}` }} data-wide={width >= height}>
        <BlobImage blob={picture} alt="The picture to repaint" />
        <canvas
          ref={canvas}
          width={width}
          height={height}
          tabIndex={0}
          role="application"
          aria-label="Paint what shall be drawn anew. Arrow keys move the brush, space paints, with shift it paints along, brackets change its size."
          onKeyDown={onKey}
          onPointerDown={(event) => {
            if (event.button !== 0) return;
            event.currentTarget.setPointerCapture(event.pointerId);
            painting.current = true;
            mask.begin(place(event), size, erase);
          }}
          onPointerMove={(event) => {
            setCursor(place(event));
            if (painting.current) for (const one of moves(event)) mask.extend(place(one));
          }}
          onPointerUp={() => (painting.current = false)}
          onPointerCancel={() => (painting.current = false)}
          onPointerLeave={() => setCursor(null)}
        />
        {cursor && (
          <i
            className="brush"
            aria-hidden="true"
            style={{ left: `${(100 * cursor.x) / width}%`, top: `${(100 * cursor.y) / height}%`, width: `${(100 * size) / width}%` }}
          />
        )}
      </figure>
      <div className="row tools-numbers">
        <NumberField label="Brush size" value={size} min={1} max={longest} step={1} onChange={setSize} />
        <NumberField label="Feather" value={feather} min={0} max={Math.round(longest / 8)} step={1} onChange={onFeather} />
      </div>
    </>
  );
}

/** Browsers join moves that come faster than frames. */
function moves(event: PointerEvent): PointerEvent[] {
  const joined = event.nativeEvent.getCoalescedEvents?.() ?? [];
  return joined.length > 0 ? (joined as unknown as PointerEvent[]) : [event];
}
