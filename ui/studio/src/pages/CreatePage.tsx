/** Text to image, image to image, inpainting: settings on one side, the picture in the centre, what was drawn below. */

import { hasEnded, WorkerError, type JobRequest } from "@sd-worker/sdk";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

import type { Entry } from "../board.ts";
import { BlobImage } from "../components/BlobImage.tsx";
import { Controls } from "../components/Controls.tsx";
import { Filmstrip } from "../components/Filmstrip.tsx";
import { JobNews } from "../components/JobNews.tsx";
import { JobStage } from "../components/JobStage.tsx";
import { MaskEditor } from "../components/MaskEditor.tsx";
import { PictureStage } from "../components/PictureStage.tsx";
import { SourcePicker } from "../components/SourcePicker.tsx";
import { Welcome } from "../components/Welcome.tsx";
import { withControls, withImage, type PicturedControl } from "../controls.ts";
import { Mask } from "../mask.ts";
import { toBase64 } from "../picture.ts";
import { controlsOf, isByNetwork, randomSeed, requestOf, type Task } from "../settings.ts";
import { useEntries, usePictures, useStudio } from "../studio.ts";
import { useWorkingPicture } from "../useWorkingPicture.ts";

const NO_MASK = new Mask({ width: 1, height: 1 });

export function CreatePage({ task }: { task: Task }) {
  const { info, settings, change, source, controlPictures, selected: wanted, select, board } = useStudio();
  const entries = useEntries();
  const pictures = usePictures();
  const isWanted = ({ id, jobId }: { id: string; jobId?: string }) => id === wanted || jobId === wanted;
  const selected = entries.some(isWanted) || pictures.some(isWanted) ? wanted : null; // it may have left the board
  const [fit, setFit] = useState<"model" | "own">(task === "upscale" ? "own" : "model");
  const [feather, setFeather] = useState(0);
  const [posting, setPosting] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const begins = task !== "text-to-image";
  const factor = task === "upscale" ? settings.factor : 1;
  const working = useWorkingPicture(begins ? source : null, fit, factor, info);
  const mask = useMemo(() => (working && task === "inpainting" ? new Mask(working) : NO_MASK), [working, task]);
  const { empty } = useSyncExternalStore(mask.subscribe, mask.getState);

  useEffect(() => {
    if (begins) select(null);
  }, [begins, select]);

  const controls = controlsOf(settings, task, info);
  const pictured: PicturedControl[] = controls.flatMap((one) => {
    const picture = controlPictures.get(one.picture ?? "");
    return picture ? [{ ...one, blob: picture.blob }] : [];
  });
  const bare = controls.find(({ key }) => !pictured.some((one) => one.key === key));

  const lacks =
    settings.prompt.trim() === "" && !isByNetwork(settings, task)
      ? "a prompt"
      : begins && !working
        ? "a picture"
        : task === "inpainting" && empty
          ? "something painted over"
          : bare
            ? `a picture for ${bare.name}`
            : null;

  const generate = async () => {
    if (lacks || posting) return setFault(lacks && `This needs ${lacks}.`);
    setPosting(true);
    setFault(null);
    const current = settings.seedLocked ? settings : { ...settings, seed: randomSeed() };
    change({ seed: current.seed });
    const { seedLocked: _, ...rest } = current;
    const drawn = { ...rest, task, controls, ...(working && { width: working.width * factor, height: working.height * factor }) };
    try {
      let request: JobRequest = requestOf(current, task, info);
      if (task === "inpainting") request.mask = await toBase64(await mask.export(feather));
      if (working) request = await withImage(request, working.blob, pictured.length > 0, info.limits.body_bytes);
      if (pictured.length > 0) request = await withControls(request, pictured, working ?? settings, info.limits.body_bytes);
      select(await board.submit(request, drawn, working?.blob ?? null));
    } catch (error) {
      setFault(refusal(error));
    } finally {
      setPosting(false);
    }
  };

  const selectedJob = entries.find(({ id }) => id === selected)?.watch.getState().jobId || selected;
  const shownEntry = entries.find((entry) => !entry.kept && (entry.id === selected || (selected === null && !begins && !isOver(entry))));
  const shownPicture =
    pictures.find(({ id, jobId }) => id === selected || (jobId === selectedJob && id.endsWith("-0"))) ??
    (selected === null && !begins ? pictures[0] : undefined);

  const cancel = useCallback(() => {
    const target = (shownEntry && isRunning(shownEntry) ? shownEntry : null) ?? entries.find(isRunning);
    if (target && target === shownEntry) select(target.id); // it stays in sight when it is over
    void target?.watch.cancel().catch(() => undefined);
  }, [entries, shownEntry, select]);

  const keys = useRef({ generate, cancel });
  keys.current = { generate, cancel };
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.isComposing) return; // the key is the input method's
      const generates = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (!generates && event.key !== "Escape") return;
      event.preventDefault();
      if (event.repeat) return;
      if (generates) void keys.current.generate();
      else keys.current.cancel();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  return (
    <main className="create">
      <form
        className="panel"
        aria-label="Settings"
        onSubmit={(event) => {
          event.preventDefault();
          void generate();
        }}
      >
        <div className="panel-fields">
          {begins && <SourcePicker fit={fit} onFit={setFit} working={working} />}
          <Controls task={task} />
        </div>
        <div className="panel-end">
          {fault && <p className="fault" role="alert">{fault}</p>}
          <button className="primary" type="submit" disabled={posting}>
            Generate <kbd>Ctrl ⏎</kbd>
          </button>
        </div>
      </form>
      <section className="stage" aria-label="Picture">
        <JobNews entry={shownEntry} />
        {shownEntry ? (
          <JobStage key={shownEntry.id} entry={shownEntry} />
        ) : shownPicture ? (
          <PictureStage key={shownPicture.id} picture={shownPicture} />
        ) : begins && working ? (
          task === "inpainting" ? (
            <MaskEditor picture={working.blob} mask={mask} feather={feather} onFeather={setFeather} />
          ) : (
            <figure className="canvas" style={{ aspectRatio: `${working.width} / ${working.height}` }} data-wide={working.width >= working.height}>
              <BlobImage blob={working.blob} alt="The picture to begin with" />
            </figure>
          )
        ) : begins ? (
          <div className="welcome"><p>Drop, paste or choose a picture to begin with.</p></div>
        ) : (
          <Welcome />
        )}
        {begins && working && selected !== null && (
          <button type="button" className="small back" onClick={() => select(null)}>
            {task === "inpainting" ? "Back to the mask" : "Back to the picture"}
          </button>
        )}
        <Filmstrip />
      </section>
    </main>
  );
}

function isRunning({ watch }: Entry): boolean {
  return !hasEnded(watch.getState().status);
}

/** Whether there will be no pictures. */
function isOver({ watch }: Entry): boolean {
  const { status } = watch.getState();
  return status === "failed" || status === "cancelled";
}

function refusal(error: unknown): string {
  if (error instanceof WorkerError && error.status === 429) {
    return `The queue is full${error.retryAfterS === null ? "" : `; there may be room in ${error.retryAfterS} s`}.`;
  }
  return error instanceof Error ? error.message : String(error);
}
