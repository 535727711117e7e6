/** What all pages share: the worker's offer, the settings, the picture to begin with, what is selected. */

import type { Info } from "@sd-worker/sdk";
import { createContext, useContext, useSyncExternalStore } from "react";

import type { Board, Entry } from "./board.ts";
import type { Gallery, Picture } from "./gallery.ts";
import type { Settings } from "./settings.ts";
import type { Store } from "./store.ts";

/** A picture to begin with, as it came. */
export interface Source {
  blob: Blob;
  width: number;
  height: number;
}

export interface Studio {
  info: Info;
  settings: Settings;
  change: (part: Partial<Settings> | ((before: Settings) => Partial<Settings>)) => void;
  source: Source | null;
  setSource: (source: Source | null) => void;
  /** Control pictures by their ids, as they came. They stay as long as the page is open, also for settings that are reused. */
  controlPictures: ReadonlyMap<string, Source>;
  addControlPicture: (id: string, picture: Source) => void;
  /** The id of a job, or of a picture in the gallery. */
  selected: string | null;
  select: (id: string | null) => void;
  board: Board;
  gallery: Gallery;
}

export const StudioContext = createContext<Studio | null>(null);

export function useStudio(): Studio {
  const studio = useContext(StudioContext);
  if (studio === null) throw new Error("outside of the studio");
  return studio;
}

function useStore<State>(store: Store<State>): State {
  return useSyncExternalStore(store.subscribe, store.getState);
}

export const useEntries = (): Entry[] => useStore(useStudio().board);

export const usePictures = (): Picture[] => useStore(useStudio().gallery);
