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

/** The streams that a client opened, and who may have one. */
function counted(turn: () => boolean, answers: (() => Promise<Response>)[] = []) {
  const told = { streams: 0, left: [] as string[] };
  const counting = new Client({
    baseUrl: line.url,
    fetch: (url, init) => {
      if (String(url).endsWith("/stream")) told.streams += 1;
      return (/\/v1\/jobs\/[^/]+$/.test(String(url)) && answers.shift()?.()) || fetch(url, init);
    },
  });
  const turns = { take: () => Promise.resolve(turn()), leave: (jobId: string) => void told.left.push(jobId) };
  return { told, counting, turns };
}

test("a watch without a turn asks for the job until it has one", async () => {
  const job = await client.submit(RED);
  const midway = { ...job, status: "running", progress: { step: 5, steps: 12, percent: 42 } };
  const answers = [() => Promise.resolve(Response.json(midway))];
  const { told, counting, turns } = counted(() => answers.length === 0, answers);
  const watch = new JobWatch(counting, job, turns);
  const polled = new Promise<number[]>((resolve) =>
    watch.subscribe(() => watch.getState().step === 5 && resolve([told.streams, told.left.length])),
  );
  expect(await polled).toEqual([0, 0]);
  const state = await watch.ended;
  expect([state.status, state.step, state.images.length]).toEqual(["completed", 12, 1]);
  expect(told).toEqual({ streams: 1, left: [job.job_id] });
});

test("a watch that never has a turn still has the end, and says that the line was down", async () => {
  const job = await client.submit({ ...RED, steps: 2 });
  const { told, counting, turns } = counted(() => false, [() => Promise.reject(new TypeError("no network"))]);
  const watch = new JobWatch(counting, job, turns);
  const connected: boolean[] = [];
  watch.subscribe(() => connected.at(-1) !== watch.getState().connected && connected.push(watch.getState().connected));
  const state = await watch.ended;
  expect([state.status, state.images.length, connected]).toEqual(["completed", 1, [false, true]]);
  expect(told).toEqual({ streams: 0, left: [job.job_id] });
});
