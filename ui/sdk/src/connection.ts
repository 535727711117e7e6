/** One connection: aborted by silence or by the caller's signal, and closed with whoever stops reading. */
export class Connection {
  readonly #controller = new AbortController();
  readonly #silenceMs: number;
  readonly #outer: AbortSignal | undefined;
  readonly #abort = () => this.#controller.abort(this.#outer?.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(silenceMs: number, outer: AbortSignal | undefined) {
    this.#silenceMs = silenceMs;
    this.#outer = outer;
    outer?.addEventListener("abort", this.#abort);
    if (outer?.aborted) this.#abort();
    this.#heard();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  async *read(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#heard();
      yield value;
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
  }

  #heard(): void {
    clearTimeout(this.#timer);
    const silent = () => this.#controller.abort(new DOMException("The worker does not answer", "TimeoutError"));
    this.#timer = setTimeout(silent, this.#silenceMs);
  }
}
