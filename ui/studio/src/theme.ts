/** Light, dark, or as the system has it. */

import { memorize, recall } from "./memory.ts";

export type Theme = "system" | "light" | "dark";

const NAME = "sd-worker.theme";
const THEMES: readonly Theme[] = ["system", "light", "dark"];

export function readTheme(): Theme {
  const kept = recall(NAME);
  return THEMES.find((theme) => theme === kept) ?? "system";
}

/** Shows it on the whole page; `system` leaves the choice to the style sheet's media query. */
export function applyTheme(theme: Theme = readTheme()): void {
  memorize(NAME, theme);
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function isDark(theme: Theme): boolean {
  return theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}
