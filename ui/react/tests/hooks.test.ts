/** The hooks against a real worker. */

import { Client, type JobState } from "@sd-worker/sdk";
import { createElement, type ReactNode } from "react";
import { expect, inject, test } from "vitest";

import { renderHook } from "../../testing/renderHook.ts";
import { useImageToImage, useInpainting, useJob, useTextToImage, useWorker, WorkerProvider } from "../src/index.ts";

const client = new Client({ baseUrl: inject("open") });
const around = (children: ReactNode) => createElement(WorkerProvider, { client }, children);
const RED = { prompt: "a red circle on a blue background", steps: 4, seed: 7 };

async function drawn(): Promise<string> {
  const job = await client.generate(RED);
  return Buffer.from(await (await client.image(job.images[0]!.url)).arrayBuffer()).toString("base64");
}

test("useTextToImage draws and shows every state", async () => {
  const hook = renderHook(useTextToImage, around);
  const first = await hook.until(() => true);
  expect([first.busy, first.job, first.error]).toEqual([false, null, null]);
  const id = await first.generate({ ...RED, preview: { every: 1, size: 32 } });
  const running = await hook.until(({ job }) => job?.preview !== null && job?.preview !== undefined);
  expect(running.job?.jobId).toBe(id);
  const done = await hook.until(({ job, busy }) => job?.status === "completed" && !busy);
  expect([done.job?.step, done.job?.images.length]).toEqual([4, 1]);
  hook.unmount();
});

test("a refusal is an error and no job", async () => {
  const hook = renderHook(useTextToImage, around);
  expect(await (await hook.until(() => true)).generate({ ...RED, steps: 1000 })).toBeNull();
  const { error, busy, job } = await hook.until((state) => state.error !== null && !state.busy);
  expect([error?.message, busy, job]).toEqual([expect.stringContaining("steps"), false, null]);
  hook.unmount();
});

test("cancel", async () => {
  const hook = renderHook(useTextToImage, around);
  await (await hook.until(() => true)).generate({ ...RED, steps: 150 });
  await (await hook.until(({ job }) => job?.status === "running")).cancel();
  await hook.until(({ job, busy }) => job?.status === "cancelled" && !busy);
  hook.unmount();
});

test("useImageToImage and useInpainting bring their pictures", async () => {
  const image = await drawn();
  const again = renderHook(useImageToImage, around);
  await (await again.until(() => true)).generate({ ...RED, image, strength: 0.5 });
  await again.until(({ job }) => job?.status === "completed");
  again.unmount();
  const inpainting = renderHook(useInpainting, around);
  await (await inpainting.until(() => true)).generate({ ...RED, image, mask: image });
  await inpainting.until(({ job }) => job?.status === "completed");
  inpainting.unmount();
});

test("useJob follows a job that somebody else posted", async () => {
  const { job_id } = await client.submit({ ...RED, num_images: 2 });
  const hook = renderHook(() => useJob(job_id), around);
  const { job } = await hook.until((state) => state.job?.status === "completed");
  expect((job as JobState).images.map(({ seed }) => seed)).toEqual([7, 8]);
  hook.unmount();
});

test("useWorker tells what there is, and why it does not", async () => {
  const hook = renderHook(() => useWorker(50), around);
  expect((await hook.until(({ info }) => info !== null)).info?.model.id).toBe("builtin");
  hook.unmount();
  const stranger = new Client({ baseUrl: inject("guarded") });
  const refused = renderHook(() => useWorker(50), (children) => createElement(WorkerProvider, { client: stranger }, children));
  expect(await refused.until(({ error }) => error !== null)).toMatchObject({ info: null, error: { status: 401 } });
  refused.unmount();
});
