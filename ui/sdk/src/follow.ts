/** One job's stream across as many connections as it takes: no event is missed and none comes twice. */

import { createParser, type EventSourceMessage } from "eventsource-parser";

import { Connection } from "./connection.ts";
import { isEnd, type JobEvent } from "./events.ts";
import { pause } from "./pause.ts";
import { WorkerError } from "./problem.ts";

export interface FollowOptions {
  /** The id of the last event already seen. Default: 0, all of them. */
  lastEventId?: number;
  /** A connection on which nothing comes for so long is given up and made again. The worker speaks every 15 s. */
  silenceMs?: number;
  /** Called whenever the connection is there (true) or lost (false). */
  onConnection?: (connected: boolean) => void;
  signal?: AbortSignal | undefined;
}

type Request = (path: string, init: RequestInit) => Promise<Response>;

const SILENCE_MS = 40_000;
const FIRST_RETRY_MS = 300;
const LONGEST_RETRY_MS = 10_000;

/**
 * Ends after the job's last event, or at once when that was seen already. Throws WorkerError when the worker knows
 * the job no more (404, 410) or asks for a token (401), and the signal's reason when that aborts.
 */
export async function* follow(
  request: Request,
  jobId: string,
  options: FollowOptions,
): AsyncGenerator<JobEvent, void, void> {
  const { signal } = options;
  let lastId = options.lastEventId ?? 0;
  let failures = 0;
  for (;;) {
    signal?.throwIfAborted();
    const connection = new Connection(options.silenceMs ?? SILENCE_MS, signal);
    let waitMs = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** failures) * (0.75 + Math.random() / 2);
    try {
      const response = await request(`/v1/jobs/${encodeURIComponent(jobId)}/stream`, {
        headers: { Accept: "text/event-stream", ...(lastId > 0 && { "Last-Event-ID": String(lastId) }) },
        cache: "no-store",
        signal: connection.signal,
      });
      if (response.status === 204 || response.body === null) return;
      options.onConnection?.(true);
      let askedMs: number | null = null;
      for await (const message of messagesOf(connection.read(response.body), (ms) => (askedMs = ms))) {
        failures = 0;
        const id = Number(message.id);
        const event = { ...JSON.parse(message.data), id } as JobEvent;
        // An ending is new whatever its number: a disk may have lost what was told before it.
        if (!(id > lastId) && !isEnd(event)) continue;
        lastId = id;
        yield event;
        if (isEnd(event)) return;
      }
      waitMs = askedMs ?? waitMs;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof WorkerError) {
        if (!error.temporary) throw error;
        if (error.retryAfterS !== null) waitMs = error.retryAfterS * 1000;
      }
    } finally {
      connection.close();
    }
    options.onConnection?.(false);
    failures += 1;
    await pause(waitMs, signal);
  }
}

/** Server-sent events out of what comes; `retry` gets what the worker's `retry:` asks for. */
async function* messagesOf(
  parts: AsyncIterable<Uint8Array>,
  retry: (ms: number) => void,
): AsyncGenerator<EventSourceMessage, void, void> {
  const messages: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (message) => messages.push(message), onRetry: retry });
  const decoder = new TextDecoder();
  for await (const part of parts) {
    parser.feed(decoder.decode(part, { stream: true }));
    yield* messages.splice(0);
  }
}
