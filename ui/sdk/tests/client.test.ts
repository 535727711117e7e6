/** The client against a real worker: what is asked, answered, refused. */

import { describe, expect, inject, test } from "vitest";

import { advance, Client, hasEnded, parseParameters, readPngText, stateOf, unknownJob, WorkerError, type JobEvent } from "../src/index.ts";
import { collect } from "../../testing/collect.ts";
import { TOKEN } from "../../testing/global.ts";
import { generateSchema } from "../../testing/schema.ts";

const client = new Client({ baseUrl: inject("open") });
const guarded = new Client({ baseUrl: `${inject("guarded")}/`, token: () => TOKEN });
const RED = { prompt: "a red circle on a blue background", steps: 4, seed: 7 };
const LONG = { ...RED, steps: 150 };

async function refused(promise: Promise<unknown>): Promise<WorkerError> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(WorkerError);
  return error as WorkerError;
}

describe("an open worker", () => {
  test("draws, tells every step, and gives a picture with its settings", async () => {
    const events: JobEvent[] = [];
    const request = { ...RED, negative_prompt: "green", preview: { every: 2, size: 64 } };
    const job = await client.generate(request, { onEvent: (event) => events.push(event) });
    expect(events.filter(({ type }) => type === "progress").map((event) => "step" in event && event.step)).toEqual([1, 2, 3, 4]);
    expect(events.filter(({ type }) => type === "preview").length).toBeGreaterThan(0);
    expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1));
    expect(events.at(-1)?.type).toBe("completed");
    const picture = new Uint8Array(await (await client.image(job.images[0]!.url)).arrayBuffer());
    expect(parseParameters(readPngText(picture).get("parameters")!)).toMatchObject({
      prompt: RED.prompt,
      negative_prompt: "green",
      steps: 4,
      seed: 7,
      width: job.images[0]!.width,
      sampler: job.params.sampler,
    });
  });

  test("info and readiness", async () => {
    const info = await client.info();
    expect(info.tasks).toContain("text-to-image");
    expect(info.samplers).toContain(info.model.sampler);
    expect(info.limits.max_steps).toBe(150);
    expect((await client.ready()).ready).toBe(true);
    expect(await client.metrics()).toContain("sdw_step_rows_sum");
  });

  test("every fault of a request is named", async () => {
    const error = await refused(client.submit({ ...RED, steps: 1000, seed: -1 }));
    expect(error.status).toBe(422);
    expect(error.errors.map(({ field }) => field).toSorted()).toEqual(["seed", "steps"]);
  });

  test("the same key is the same job", async () => {
    const first = await client.submit(RED, { idempotencyKey: "once" });
    expect((await client.submit(RED, { idempotencyKey: "once" })).job_id).toBe(first.job_id);
    expect((await client.submit(RED)).job_id).not.toBe(first.job_id);
    expect((await client.jobs({ limit: 1 })).jobs).toHaveLength(1);
  });

  test("an unknown job is a 404, for its stream too", async () => {
    expect((await refused(client.job("job_nowhere"))).status).toBe(404);
    expect((await refused(client.follow("job_nowhere").next())).code).toBe("job_not_found");
  });

  test("an abort cancels the job on the worker", async () => {
    const controller = new AbortController();
    let jobId = "";
    const drawing = client.generate(LONG, {
      signal: controller.signal,
      onJob: (job) => (jobId = job.job_id),
      onEvent: (event) => event.type === "progress" && controller.abort(),
    });
    await expect(drawing).rejects.toThrow(/abort/i);
    for await (const event of client.follow(jobId)) {
      if (event.type === "cancelled") expect(event.reason).toBe("requested");
    }
    expect((await client.job(jobId)).status).toBe("cancelled");
  });

  test("an abort before the post is answered cancels the job too", async () => {
    const controller = new AbortController();
    const slow = new Client({
      baseUrl: inject("open"),
      fetch: async (url, init) => {
        if (init?.method !== "POST" || controller.signal.aborted) return fetch(url, init);
        await fetch(url, { ...init, signal: null });
        controller.abort();
        throw controller.signal.reason;
      },
    });
    await expect(slow.generate(LONG, { signal: controller.signal })).rejects.toThrow(/abort/i);
    const job = (await client.jobs({ limit: 1 })).jobs[0]!;
    expect((await collect(client.follow(job.job_id))).at(-1)).toMatchObject({ type: "cancelled", reason: "requested" });
  });

  test("an abort before anything is posted posts nothing", async () => {
    const newest = (await client.jobs({ limit: 1 })).jobs[0]!.job_id;
    await expect(client.generate(LONG, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
    expect((await client.jobs({ limit: 1 })).jobs[0]!.job_id).toBe(newest);
  });

  test("what was not done as it was asked is told in the event, the job, and the state", async () => {
    const asked = { ...RED, guidance_scale: 1, negative_prompt: "green" };
    const events: JobEvent[] = [];
    const job = await client.generate(asked, { onEvent: (event) => events.push(event) });
    expect(job.warnings).toEqual([expect.stringContaining("negative_prompt")]);
    expect(events.at(-1)).toMatchObject({ warnings: job.warnings });
    const states = [stateOf(job), events.reduce(advance, unknownJob(job.job_id))];
    expect(states.map(({ warnings }) => warnings)).toEqual([job.warnings, job.warnings]);
  });

  test("a cancelled job ends its stream, and cancelling again does no harm", async () => {
    const job = await client.submit(LONG);
    await client.cancel(job.job_id);
    const events = await collect(client.follow(job.job_id));
    expect(events.at(-1)?.type).toBe("cancelled");
    expect(hasEnded((await client.cancel(job.job_id)).status)).toBe(true);
  });

  test("the committed types are those of the worker's document", async () => {
    const schema = await import("../src/schema.ts?raw");
    expect(schema.default).toBe(await generateSchema(inject("open")));
  });
});

describe("a guarded worker with room for one waiting job", () => {
  test("nothing without the token", async () => {
    for (const token of [null, "wrong"]) {
      const error = await refused(new Client({ baseUrl: inject("guarded"), token }).info());
      expect([error.status, error.code]).toEqual([401, "unauthorized"]);
    }
  });

  test("a full queue says when to come back, and patience waits for it", async () => {
    const posted: string[] = [];
    let error: unknown = null;
    while (error === null && posted.length < 100) {
      await guarded.submit(LONG).then(
        (job) => posted.push(job.job_id),
        (reason: unknown) => (error = reason),
      );
    }
    expect(error).toBeInstanceOf(WorkerError);
    const { status, temporary, retryAfterS } = error as unknown as WorkerError;
    expect([status, temporary]).toEqual([429, true]);
    expect(retryAfterS).toBeGreaterThan(0);
    const patient = guarded.submit(RED, { patienceMs: 90_000 });
    for (const id of posted) await guarded.cancel(id);
    const late = await patient;
    await guarded.cancel(late.job_id);
    for await (const _ of guarded.follow(late.job_id));
  });

  test("a job that the worker no longer keeps is gone", async () => {
    const first = await guarded.submit({ ...RED, steps: 1 });
    for await (const _ of guarded.follow(first.job_id));
    const second = await guarded.submit({ ...RED, steps: 1 });
    for await (const _ of guarded.follow(second.job_id));
    expect((await refused(guarded.follow(first.job_id).next())).status).toBe(410);
  });
});
