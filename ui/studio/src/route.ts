/** Which page is open, kept in the address behind `#`. */

import { useSyncExternalStore } from "react";

export const PAGES = ["text", "image", "inpaint", "upscale", "gallery", "worker"] as const;
export type Page = (typeof PAGES)[number];

export function openPage(page: Page): void {
  location.hash = `/${page}`;
}

export function usePage(): Page {
  return useSyncExternalStore(
    (listener) => {
      addEventListener("hashchange", listener);
      return () => removeEventListener("hashchange", listener);
    },
    () => PAGES.find((page) => location.hash === `#/${page}`) ?? "text",
  );
}
