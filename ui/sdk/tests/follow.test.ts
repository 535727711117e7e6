/** Streams through a network that is cut: nothing missed, nothing twice. */

import { afterEach, beforeEach, expect, inject, test } from "vitest";

import { Client, JobWatch, type JobEvent } from "../src/index.ts";
import { collect } from "../../testing/collect.ts";
import { Line } from "../../testing/line.ts";

const RED = { prompt: "a red circle", steps: 12, seed: 7 };
let line: Line;
let client: Client;

beforeEach(async () => {
  line = await Line.to(inject("open"));
  client = new Client({ baseUrl: line.url });
});
afterEach(() => line.close());

test("a stream that is cut at many places arrives whole", async () => {
  const { job_id } = await client.submit(RED);
  const events: JobEvent[] = [];
  for await (const event of client.follow(job_id)) {
    events.push(event);
    if (event.type === "progress" && event.step % 4 === 1) line.cut("come back");
  }
  expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1));
  expect(events.filter(({ type }) => type === "progress")).toHaveLength(12);
  expect(line.connections).toBeGreaterThan(2);
});

test("a watch says that the line is down, and has the end when it is mended", async () => {
  const watch = new JobWatch(client, await client.submit({ ...RED, preview: { every: 3, size: 32 } }));
  const connected: boolean[] = [];
  watch.subscribe(() => {
    const state = watch.getState();
    if (connected.at(-1) !== state.connected) connected.push(state.connected);
    if (state.step === 4 && !connected.includes(false)) line.cut("stay down");
    if (!state.connected) line.mend();
  });
  const state = await watch.ended;
  expect(connected).toEqual([true, false, true]);
  expect([state.status, state.step, state.images.length]).toEqual(["completed", 12, 1]);
  expect(state.preview?.image.length).toBeGreaterThan(100);
});

test("following goes on behind any event, and ends at once behind the last", async () => {
  const { job_id } = await client.submit({ ...RED, steps: 2 });
  const all = await collect(client.follow(job_id));
  expect(await collect(client.follow(job_id, { lastEventId: 2 }))).toEqual(all.slice(2));
  expect(await collect(client.follow(job_id, { lastEventId: all.length }))).toEqual([]);
});

test("a watch that begins behind the end still knows how it ended", async () => {
  const job = await client.submit({ ...RED, steps: 2 });
  const before = await new JobWatch(client, job).ended;
  const again = await new JobWatch(client, { ...before, status: "running", resumeFrom: before.lastEventId }).ended;
  expect([again.status, again.images.length]).toEqual(["completed", 1]);
});

test("a watch behind the end asks for the job until the worker answers", async () => {
  const { job_id } = await client.submit({ ...RED, steps: 2 });
  const before = await new JobWatch(client, job_id).ended;
  const answers = [() => Promise.reject(new TypeError("no network")), () => Promise.resolve(new Response("", { status: 503 }))];
  const troubled = new Client({
    baseUrl: line.url,
    fetch: (url, init) => (String(url).endsWith(job_id) && answers.shift()?.()) || fetch(url, init),
  });
  const state = await new JobWatch(troubled, { ...before, status: "running", resumeFrom: before.lastEventId }).ended;
  expect([state.status, state.error, answers.length]).toEqual(["completed", null, 0]);
});

test("a line on which nothing comes any more is given up and made again", async () => {
  const { job_id } = await client.submit({ ...RED, steps: 30 });
  const events: JobEvent[] = [];
  for await (const event of client.follow(job_id, { silenceMs: 3000 })) {
    events.push(event);
    if (event.type === "started") line.stall();
  }
  expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1));
  expect(events.at(-1)?.type).toBe("completed");
});
