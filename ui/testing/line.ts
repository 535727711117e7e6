/** A network between client and worker that can be cut: a TCP proxy on a port of its own. */

import { createServer, connect, type AddressInfo, type Socket } from "node:net";

export class Line {
  readonly url: string;
  readonly #server;
  readonly #sockets = new Set<Socket>();
  #cutNew = false;
  connections = 0;

  private constructor(server: ReturnType<typeof createServer>) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async to(workerUrl: string): Promise<Line> {
    const { hostname, port } = new URL(workerUrl);
    let line: Line;
    const server = createServer((near) => {
      if (line.#cutNew) return near.destroy();
      line.connections += 1;
      const far = connect(Number(port), hostname);
      for (const [one, other] of [[near, far], [far, near]] as const) {
        line.#sockets.add(one);
        one.on("error", () => other.destroy()).on("close", () => {
          line.#sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    line = new Line(server);
    return line;
  }

  /** Ends what is open; `and` says whether new connections get through. */
  cut(and: "stay down" | "come back"): void {
    this.#cutNew = and === "stay down";
    for (const socket of this.#sockets) socket.destroy();
  }

  /** What is open stays open, and nothing comes through it any more. */
  stall(): void {
    for (const socket of this.#sockets) socket.unpipe().pause();
  }

  mend(): void {
    this.#cutNew = false;
  }

  async close(): Promise<void> {
    this.cut("stay down");
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
