/** Which page is open, kept in the address behind `#`. */

import { useSyncExternalStore } from "react";

import type { Task } from "./settings.ts";

const PAGES = ["text", "image", "inpaint", "upscale", "gallery", "worker"] as const;
export type Page = (typeof PAGES)[number];

/** What the pages draw; the others draw nothing. */
export const TASKS: Partial<Record<Page, Task>> = {
  text: "text-to-image",
  image: "image-to-image",
  inpaint: "inpainting",
  upscale: "upscale",
};

export function openPage(page: Page): void {
  location.hash = `/${page}`;
}

/** The page that does this, or the first one there is where the worker does not. */
export function openPageOf(task: Task): void {
  openPage(PAGES.find((page) => TASKS[page] === task)!);
}

export function isOffered(page: Page, tasks: readonly string[]): boolean {
  const task = TASKS[page];
  return task === undefined || tasks.includes(task);
}

/** The one in the address, or the first one for a worker that does not do that. */
export function usePage(tasks?: readonly string[]): Page {
  const named = useSyncExternalStore(
    (listener) => {
      addEventListener("hashchange", listener);
      return () => removeEventListener("hashchange", listener);
    },
    () => PAGES.find((page) => location.hash === `#/${page}`) ?? "text",
  );
  if (tasks === undefined || isOffered(named, tasks)) return named;
  return PAGES.find((page) => isOffered(page, tasks)) ?? named;
}
