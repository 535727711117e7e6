/** The hooks against a real worker. */

import { Client, type JobState } from "@sd-worker/sdk";
import { createElement, type ReactNode } from "react";
import { expect, inject, test, vi } from "vitest";

import { renderHook } from "../../testing/renderHook.ts";
import { useImageToImage, useInpainting, useJob, useTextToImage, useWorker, WorkerProvider } from "../src/index.ts";

const client = new Client({ baseUrl: inject("open") });
const around = (children: ReactNode) => createElement(WorkerProvider, { client }, children);
const RED = { prompt: "a red circle on a blue background", steps: 4, seed: 7 };

/** A client whose posts are held, in their order, until they are let go. */
function holding(): { client: Client; letGo: (() => void)[] } {
  const letGo: (() => void)[] = [];
  const client = new Client({
    baseUrl: inject("open"),
    fetch: async (url, init) => {
      if (init?.method === "POST") await new Promise<void>((resolve) => letGo.push(resolve));
      return fetch(url, init);
    },
  });
  return { client, letGo };
}

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

test("cancel is asked for until it is answered, and seen meanwhile", async () => {
  const asked: string[] = [];
  const losing = new Client({
    baseUrl: inject("open"),
    fetch: (url, init) => {
      if (init?.method === "DELETE" && asked.push(String(url)) === 1) throw new TypeError("network error");
      return fetch(url, init);
    },
  });
  const hook = renderHook(useTextToImage, (children) => createElement(WorkerProvider, { client: losing }, children));
  await (await hook.until(() => true)).generate({ ...RED, steps: 150, width: 256, height: 256, num_images: 4 });
  const cancelled = (await hook.until(({ job }) => job?.status === "running")).cancel();
  await hook.until(({ job }) => job?.cancelling === true && job.status === "running");
  await cancelled;
  await hook.until(({ job, busy }) => job?.status === "cancelled" && !busy);
  expect(asked).toHaveLength(2);
  hook.unmount();
});

test("cancel while a job is being posted cancels that one, and not the one before", async () => {
  const { client, letGo } = holding();
  const hook = renderHook(useTextToImage, (children) => createElement(WorkerProvider, { client }, children));
  const { generate, cancel } = await hook.until(() => true);
  const posted = [];
  for (const place of [0, 1]) {
    posted.push(generate({ ...RED, steps: 150 }));
    await vi.waitFor(() => expect(letGo).toHaveLength(place + 1));
    if (place === 0) letGo[0]!();
    await hook.until(({ job }) => job !== null);
  }
  const cancelled = cancel();
  letGo[1]!();
  const [before, id] = await Promise.all(posted);
  await cancelled;
  const state = await hook.until(({ job, busy }) => job?.status === "cancelled" && !busy);
  expect(state.job?.jobId).toBe(id);
  expect((await client.job(before!)).status).not.toBe("cancelled");
  await client.cancel(before!);
  hook.unmount();
});

test("cancel while a job is being posted holds when the page is left", async () => {
  const { client, letGo } = holding();
  const hook = renderHook(useTextToImage, (children) => createElement(WorkerProvider, { client }, children));
  const { generate, cancel } = await hook.until(() => true);
  const posted = generate({ ...RED, steps: 150 });
  await vi.waitFor(() => expect(letGo).toHaveLength(1));
  const cancelled = cancel();
  hook.unmount();
  letGo[0]!();
  await cancelled;
  const id = (await posted)!;
  await vi.waitFor(async () => expect((await client.job(id)).status).toBe("cancelled"), 10_000);
});

test("cancel while a job is being posted holds though the answer is lost", async () => {
  const ids: string[] = [];
  let lose = () => {};
  const lost = new Promise<void>((resolve) => (lose = resolve));
  const losing = new Client({
    baseUrl: inject("open"),
    fetch: async (url, init) => {
      const answer = await fetch(url, init);
      if (init?.method !== "POST") return answer;
      ids.push(((await answer.clone().json()) as { job_id: string }).job_id);
      if (ids.length > 1) return answer;
      await lost;
      throw new TypeError("network error");
    },
  });
  const hook = renderHook(useTextToImage, (children) => createElement(WorkerProvider, { client: losing }, children));
  const { generate, cancel } = await hook.until(() => true);
  const posted = generate({ ...RED, steps: 150 });
  await vi.waitFor(() => expect(ids).toHaveLength(1), 10_000);
  const cancelled = cancel();
  lose();
  expect(await posted).toBeNull();
  await cancelled;
  expect(ids[1]).toBe(ids[0]);
  await vi.waitFor(async () => expect((await client.job(ids[0]!)).status).toBe("cancelled"), 10_000);
  hook.unmount();
});

test("of calls that overlap the last one is followed, whichever is answered first", async () => {
  const { client, letGo } = holding();
  const hook = renderHook(useTextToImage, (children) => createElement(WorkerProvider, { client }, children));
  const { generate } = await hook.until(() => true);
  const run = async (order: number[]) => {
    letGo.length = 0;
    const posted = [generate(RED), generate(RED)];
    await vi.waitFor(() => expect(letGo).toHaveLength(2));
    for (const place of order) {
      letGo[place]!();
      await posted[place];
      await new Promise((resolve) => setTimeout(resolve));
      if (place === 0 && order[0] === 0) expect(hook.current()).toMatchObject({ busy: true, job: null });
    }
    return posted[1];
  };
  const first = await run([0, 1]);
  expect((await hook.until(({ job, busy }) => job?.status === "completed" && !busy)).job?.jobId).toBe(first);
  const second = await run([1, 0]);
  expect((await hook.until(({ job, busy }) => job?.status === "completed" && !busy && job.jobId !== first)).job?.jobId).toBe(second);
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

test("useWorker asks nothing while a question is open", async () => {
  const answer = await client.info();
  const answers: ((response: Response) => void)[] = [];
  const slow = new Client({ fetch: () => new Promise((resolve) => answers.push(resolve)) });
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  try {
    const hook = renderHook(() => useWorker(50), (children) => createElement(WorkerProvider, { client: slow }, children));
    await vi.waitFor(() => expect(answers).toHaveLength(1));
    vi.advanceTimersByTime(500);
    expect(answers).toHaveLength(1);
    answers[0]!(Response.json(answer));
    await hook.until(({ info }) => info !== null);
    vi.advanceTimersByTime(50);
    expect(answers).toHaveLength(2);
    hook.unmount();
  } finally {
    vi.useRealTimers();
  }
});
