/** What the worker says when it refuses: problem+json (RFC 9457) as an Error. */

export interface FieldFault {
  field: string;
  message: string;
}

/** A refusal. `code` is the worker's own word, stable across versions; `message` is meant for people. */
export class WorkerError extends Error {
  readonly status: number;
  readonly code: string;
  readonly errors: readonly FieldFault[];
  /** Seconds after which asking again makes sense; null where the worker did not say. */
  readonly retryAfterS: number | null;

  constructor(status: number, code: string, message: string, errors: readonly FieldFault[], retryAfterS: number | null) {
    super(message);
    this.name = "WorkerError";
    this.status = status;
    this.code = code;
    this.errors = errors;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same request may succeed later: a full queue, a worker that drains or loads. */
  get temporary(): boolean {
    return this.ofProxy || this.status === 429 || this.status === 503;
  }

  /** Whether it is the word of a proxy that heard nothing of the worker, which the request may have reached. */
  get ofProxy(): boolean {
    return this.status === 502 || this.status === 504;
  }
}

/** Reads the body of a refused request. Whatever stands in between (a proxy's HTML page) still gives an Error. */
export async function readProblem(response: Response): Promise<WorkerError> {
  const problem = await response.json().catch(() => ({}));
  const said: Record<string, unknown> = typeof problem === "object" && problem !== null ? problem : {};
  const errors = Array.isArray(said.errors) ? (said.errors as FieldFault[]) : [];
  const detail = typeof said.detail === "string" ? said.detail : `The worker answered ${response.status}`;
  const faults = errors.map((fault) => `${fault.field} ${fault.message}`).join("; ");
  const code = typeof said.code === "string" ? said.code : `http_${response.status}`;
  return new WorkerError(response.status, code, faults || detail, errors, retryAfter(response.headers));
}

function retryAfter(headers: Headers): number | null {
  const value = headers.get("Retry-After");
  if (value === null) return null;
  if (/^\d+$/.test(value)) return Number(value);
  const moment = Date.parse(value);
  return Number.isNaN(moment) ? null : Math.max(0, (moment - Date.now()) / 1000);
}
