/** A hook in a component of its own, and a way to wait for what it says. */

import "./dom.ts";

import { createElement, type ReactNode } from "react";
import { createRoot } from "react-dom/client";

export interface Rendered<Value> {
  current: () => Value;
  /** The first value, now or later, that the condition holds for. */
  until: (condition: (value: Value) => boolean) => Promise<Value>;
  unmount: () => void;
}

export function renderHook<Value>(hook: () => Value, around: (child: ReactNode) => ReactNode): Rendered<Value> {
  let value: Value;
  const waiting = new Set<() => void>();
  const Probe = () => {
    value = hook();
    for (const check of waiting) check();
    return null;
  };
  const root = createRoot(document.createElement("div"));
  root.render(around(createElement(Probe)));
  return {
    current: () => value,
    until: (condition) =>
      new Promise((resolve) => {
        const check = () => {
          if (value === undefined || !condition(value)) return;
          waiting.delete(check);
          resolve(value);
        };
        waiting.add(check);
        check();
      }),
    unmount: () => root.unmount(),
  };
}
