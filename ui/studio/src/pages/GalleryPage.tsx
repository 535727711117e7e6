/** All pictures of this browser: searched, sorted, looked at, compared; settings read back from dropped files. */

import { parseParameters, readPngText } from "@sd-worker/sdk";
import { useEffect, useState } from "react";

import { BeforeAfter } from "../components/BeforeAfter.tsx";
import { BlobImage } from "../components/BlobImage.tsx";
import { Icon } from "../components/Icon.tsx";
import { PictureStage } from "../components/PictureStage.tsx";
import type { Picture } from "../gallery.ts";
import { openPageOf } from "../route.ts";
import { fromParameters, reuse, titleOf, usedFor } from "../settings.ts";
import { usePictures, useStudio } from "../studio.ts";

const ORDERS = {
  newest: { label: "Newest first", by: (a: Picture, b: Picture) => b.createdAt.localeCompare(a.createdAt) },
  oldest: { label: "Oldest first", by: (a: Picture, b: Picture) => a.createdAt.localeCompare(b.createdAt) },
  prompt: { label: "By prompt", by: (a: Picture, b: Picture) => a.drawn.prompt.localeCompare(b.drawn.prompt) },
  size: { label: "Largest first", by: (a: Picture, b: Picture) => b.width * b.height - a.width * a.height },
};

export function GalleryPage() {
  const { info, settings, change, selected, select } = useStudio();
  const pictures = usePictures();
  const [wanted, setWanted] = useState("");
  const [order, setOrder] = useState<keyof typeof ORDERS>("newest");
  const [compared, setCompared] = useState<string[] | null>(null);
  const [said, setSaid] = useState<string | null>(null);
  useEffect(() => setSaid(null), [wanted, order, compared, selected]); // it stands where these are told of

  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const found = pictures
    .filter(({ drawn }) => {
      const { prompt, negative, sampler, task, seed } = usedFor(drawn);
      const text = [prompt, negative, sampler, task, seed].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    })
    .toSorted(ORDERS[order].by);
  const picture = pictures.find(({ id }) => id === selected);
  const pair = (compared ?? []).map((id) => pictures.find((one) => one.id === id)).filter((one) => one !== undefined);

  const used = pair.map(({ drawn }) => usedFor(drawn));

  const pick = (id: string) => {
    if (compared === null) return select(id);
    setCompared(compared.includes(id) ? compared.filter((one) => one !== id) : [...compared, id].slice(-2));
  };
  const read = async (file: File | undefined) => {
    if (!file) return;
    setSaid(null);
    const bytes = await file.arrayBuffer().catch(() => new ArrayBuffer(0)); // it may be gone by now
    const text = readPngText(new Uint8Array(bytes)).get("parameters");
    const parameters = text === undefined ? null : parseParameters(text);
    if (parameters === null) return setSaid(`${file.name} holds no settings.`);
    const from = fromParameters(parameters, info);
    change(reuse(settings, from, info));
    if (parameters.seed !== from.seed) return setSaid(`${file.name} was read, but not its seed: this page cannot hold it.`);
    openPageOf(from.task);
  };
  return (
    <main
      className="gallery"
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        void read(event.dataTransfer.files[0]);
      }}
    >
      <div className="gallery-bar">
        <input type="search" aria-label="Search prompts and settings" placeholder="Search" value={wanted} onChange={(event) => setWanted(event.target.value)} />
        <select aria-label="Order" value={order} onChange={(event) => setOrder(event.target.value as keyof typeof ORDERS)}>
          {Object.entries(ORDERS).map(([name, { label }]) => (
            <option key={name} value={name}>{label}</option>
          ))}
        </select>
        <button type="button" aria-pressed={compared !== null} onClick={() => setCompared(compared === null ? [] : null)}>
          <Icon name="compare" /> Compare two
        </button>
        <label className="button">
          Read settings from a PNG
          <input
            type="file"
            accept="image/png"
            className="visually-hidden"
            onChange={(event) => {
              void read(event.target.files?.[0]);
              event.target.value = ""; // so that the same one can be chosen again
            }}
          />
        </label>
        <span className="quiet" role="status">
          {said ?? (compared !== null && pair.length < 2 ? `Choose ${2 - pair.length} more` : `${found.length} of ${pictures.length}`)}
        </span>
      </div>
      <div className="gallery-body">
        {found.length === 0 ? (
          <p className="notice">{pictures.length === 0 ? "Pictures that you draw are kept here, on this device alone." : "Nothing matches."}</p>
        ) : (
          <ul className="grid" aria-label="Pictures">
            {found.map((one) => (
              <li key={one.id}>
                <button
                  type="button"
                  className="thumb"
                  data-card={one.id}
                  aria-pressed={compared === null ? one.id === selected : compared.includes(one.id)}
                  aria-label={titleOf(one.drawn)}
                  onClick={() => pick(one.id)}
                >
                  <BlobImage blob={one.thumbnail} alt="" />
                </button>
              </li>
            ))}
          </ul>
        )}
        {compared !== null && pair.length === 2 ? (
          <section className="stage" aria-label="Comparison">
            <figure className="canvas" style={{ aspectRatio: `${pair[0]!.width} / ${pair[0]!.height}` }} data-wide={pair[0]!.width >= pair[0]!.height}>
              <BeforeAfter before={pair[0]!.blob} after={pair[1]!.blob} alt={titleOf(pair[1]!.drawn)} />
            </figure>
            <table className="differences">
              <tbody>
                {(["prompt", "seed", "steps", "guidance", "sampler"] as const).map((name) => (
                  <tr key={name} data-differs={used[0]![name] !== used[1]![name]}>
                    <th scope="row">{name}</th>
                    <td>{used[0]![name] ?? "–"}</td>
                    <td>{used[1]![name] ?? "–"}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </section>
        ) : (
          picture && compared === null && (
            <section className="stage" aria-label="Picture">
              <PictureStage key={picture.id} picture={picture} />
            </section>
          )
        )}
      </div>
    </main>
  );
}
