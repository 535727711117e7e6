/** The bar above all pages: where one can go, how the worker is, light or dark. */

import type { Info } from "@sd-worker/sdk";
import { useEffect, useRef, useState } from "react";

import { isOffered, type Page, usePage } from "../route.ts";
import { applyTheme, isDark, readTheme } from "../theme.ts";
import { Icon } from "./Icon.tsx";

const PAGES: { page: Page; label: string }[] = [
  { page: "text", label: "Text to image" },
  { page: "image", label: "Image to image" },
  { page: "inpaint", label: "Inpainting" },
  { page: "upscale", label: "Upscale" },
  { page: "gallery", label: "Gallery" },
  { page: "worker", label: "Worker" },
];

export function Header({ info, reachable }: { info: Info | null; reachable: boolean }) {
  const open = usePage(info?.tasks);
  const pages = PAGES.filter(({ page }) => isOffered(page, info?.tasks ?? []));
  const current = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    current.current?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [open, pages.length]);
  const [theme, setTheme] = useState(readTheme);
  const dark = isDark(theme);
  const status = reachable ? (info?.worker.status ?? "unknown") : "unreachable";
  const turn = () => {
    const next = dark ? "light" : "dark";
    applyTheme(next);
    setTheme(next);
  };
  return (
    <header className="header">
      <span className="header-name">sd-worker</span>
      <nav aria-label="Pages">
        {pages.map(({ page, label }) => (
          <a key={page} ref={page === open ? current : null} href={`#/${page}`} aria-current={page === open ? "page" : undefined}>
            {label}
          </a>
        ))}
      </nav>
      <span className="header-status" data-status={status} title={`The worker is ${status}`}>
        <i aria-hidden="true" />
        <span className="header-model">{info?.model.id ?? "no worker"}</span>
        <span className="visually-hidden">: {status}</span>
      </span>
      <button className="icon" type="button" onClick={turn} aria-label={dark ? "Light colours" : "Dark colours"}>
        <Icon name={dark ? "sun" : "moon"} />
      </button>
    </header>
  );
}
