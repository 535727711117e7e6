/** The frame: pages, the worker's state, the token where it is asked for, and what all pages share. */

import { WorkerError } from "@sd-worker/sdk";
import { useWorker } from "@sd-worker/react";
import { useCallback, useEffect, useMemo, useState } from "react";

import type { Board } from "./board.ts";
import { Header } from "./components/Header.tsx";
import { TokenPrompt } from "./components/TokenPrompt.tsx";
import type { Gallery } from "./gallery.ts";
import { CreatePage } from "./pages/CreatePage.tsx";
import { GalleryPage } from "./pages/GalleryPage.tsx";
import { WorkerPage } from "./pages/WorkerPage.tsx";
import { TASKS, usePage } from "./route.ts";
import { keepSettings, readSettings, type Settings } from "./settings.ts";
import { StudioContext, type Source, type Studio } from "./studio.ts";

export function App({ board, gallery }: { board: Board; gallery: Gallery }) {
  const { info, error, refresh } = useWorker(usePage() === "worker" ? 2000 : 5000);
  const page = usePage(info?.tasks);
  const [settings, setSettings] = useState<Settings | null>(null);
  const [source, setSource] = useState<Source | null>(null);
  const [controlPictures, setControlPictures] = useState<ReadonlyMap<string, Source>>(new Map());
  const [selected, select] = useState<string | null>(null);
  const unauthorized = error instanceof WorkerError && error.status === 401;

  const model = info?.model.id;
  useEffect(() => {
    if (info) setSettings(readSettings(info));
  }, [model]); // the model's defaults, once for each model
  const letIn = info !== null && !unauthorized;
  useEffect(() => {
    if (letIn) board.resume();
  }, [board, letIn]);

  const change = useCallback<Studio["change"]>((part) => {
    setSettings((before) => {
      if (before === null) return before;
      const next = { ...before, ...(typeof part === "function" ? part(before) : part) };
      keepSettings(next);
      return next;
    });
  }, []);

  const addControlPicture = useCallback((id: string, picture: Source) => {
    setControlPictures((before) => new Map(before).set(id, picture));
  }, []);

  const studio = useMemo<Studio | null>(() => {
    if (info === null || settings === null) return null;
    const pictures = { source, setSource, controlPictures, addControlPicture };
    return { info, settings, change, ...pictures, selected, select, board, gallery };
  }, [info, settings, change, source, controlPictures, addControlPicture, selected, board, gallery]);
  const task = TASKS[page];
  return (
    <>
      <Header info={info} reachable={error === null || (error instanceof WorkerError && !error.ofProxy)} />
      {unauthorized && <TokenPrompt onToken={refresh} />}
      {studio ? (
        <StudioContext value={studio}>
          {task && <CreatePage key={task} task={task} />}
          {page === "gallery" && <GalleryPage />}
          {page === "worker" && <WorkerPage error={error} />}
        </StudioContext>
      ) : (
        !unauthorized && <main className="notice">{error ? "The worker cannot be reached. Trying again…" : "Asking the worker…"}</main>
      )}
    </>
  );
}
