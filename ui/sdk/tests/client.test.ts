/** The client against a real worker: what is asked, answered, refused. */

import { afterEach, describe, expect, inject, test, vi } from "vitest";

import { advance, Client, hasEnded, isToken, parseParameters, readPngText, stateOf, unknownJob, WorkerError, type JobEvent } from "../src/index.ts";
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

  test("white space around a token is left away", async () => {
    expect((await new Client({ baseUrl: inject("guarded"), token: `${TOKEN}\n` }).info()).model.id).toBe("builtin");
  });

  test("what no header can carry is refused as a token, and not shown", async () => {
    for (const unfit of ["secret\u200b", "secr\u0454t", "sec\nret", "sécret"]) {
      expect(isToken(unfit)).toBe(false);
      const thrown = await refused(Promise.resolve().then(() => new Client({ token: unfit })));
      const asked = await refused(new Client({ baseUrl: inject("guarded"), token: () => unfit }).info());
      for (const error of [thrown, asked]) {
        expect([error.status, error.temporary]).toEqual([401, false]);
        expect(error.message).not.toMatch(/sec/);
      }
    }
    expect([isToken(TOKEN), isToken("two words"), isToken("")]).toEqual([true, true, false]);
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

describe("a line that went silent", () => {
  const SILENT_MS = 120_000;
  afterEach(() => void vi.useRealTimers());

  /** Nothing comes of the first answer, or of what is behind its head; then as the others say. */
  function silent(head: "no head" | "a head", ...answers: (() => Promise<Response>)[]) {
    const keys: (string | null)[] = [];
    let reached = () => {};
    const asked = new Promise<void>((resolve) => (reached = resolve));
    const client = new Client({
      fetch: (_, init) => {
        keys.push(new Headers(init?.headers).get("Idempotency-Key"));
        if (keys.length > 1) return answers.shift()!();
        reached();
        const signal = init!.signal!;
        const whenAborted = (end: (reason: unknown) => void) =>
          signal.aborted ? end(signal.reason) : signal.addEventListener("abort", () => end(signal.reason));
        if (head === "no head") return new Promise((_, reject) => whenAborted(reject));
        const body = new ReadableStream({ start: (controller) => whenAborted((reason) => controller.error(reason)) });
        return Promise.resolve(new Response(body));
      },
    });
    return { client, keys, asked };
  }

  test.each(["no head", "a head"] as const)("is given up after %s, whatever was asked", async (head) => {
    vi.useFakeTimers();
    for (const ask of [
      (client: Client) => client.info(),
      (client: Client) => client.ready(),
      (client: Client) => client.metrics(),
      (client: Client) => client.job("job_any"),
      (client: Client) => client.jobs(),
      (client: Client) => client.cancel("job_any"),
      (client: Client) => client.image("/v1/jobs/job_any/images/0"),
      (client: Client) => client.submit(RED),
    ]) {
      const { client, asked } = silent(head);
      const lost = expect(ask(client)).rejects.toMatchObject({ name: "TimeoutError" });
      await asked;
      await vi.advanceTimersByTimeAsync(SILENT_MS);
      await lost;
    }
  });

  test("loses no post, which goes out again with its key", async () => {
    vi.useFakeTimers();
    const { client, keys, asked } = silent("no head", () => Promise.resolve(Response.json({ job_id: "job_any" })));
    const posted = client.submit(RED, { patienceMs: 2 * SILENT_MS });
    await asked;
    await vi.advanceTimersByTimeAsync(SILENT_MS);
    expect((await posted).job_id).toBe("job_any");
    expect([keys.length, new Set(keys).size]).toEqual([2, 1]);
  });

  test("still ends with the caller's signal", async () => {
    const controller = new AbortController();
    const { client, asked } = silent("no head");
    const ended = expect(client.info(controller.signal)).rejects.toThrow("enough");
    await asked;
    controller.abort(new Error("enough"));
    await ended;
    await expect(silent("no head").client.info(AbortSignal.abort(new Error("enough")))).rejects.toThrow("enough");
  });

  test("a cut behind the end of a job loses no job", async () => {
    const troubles = [() => Promise.reject(new TypeError("no network")), () => Promise.resolve(new Response("", { status: 502 }))];
    const troubled = new Client({
      baseUrl: inject("open"),
      fetch: (url, init) => (/\/v1\/jobs\/[^/]+$/.test(String(url)) && troubles.shift()?.()) || fetch(url, init),
    });
    expect(await troubled.generate(RED)).toMatchObject({ status: "completed" });
    expect(troubles).toEqual([]);
  });
});
