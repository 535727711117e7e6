/** A real worker on the built-in model, in a process of its own, for tests and for the types' generator. */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

export interface RealWorker {
  url: string;
  /** Once its model is loaded. */
  ready(): Promise<void>;
  stop(): Promise<void>;
}

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const LAUNCH = "from worker.main import cpu; raise SystemExit(cpu())";

/** As soon as it says where it listens; jobs posted while its model loads wait for that. */
export async function startWorker(flags: string[] = [], environment: Record<string, string> = {}): Promise<RealWorker> {
  const python = process.env.SDW_PYTHON ?? join(ROOT, ".venv/bin/python");
  if (!existsSync(python)) throw new Error("no python: run bin/setup, or name one in SDW_PYTHON");
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("SDW_"));
  const child = spawn(python, ["-P", "-c", LAUNCH, "--port", "0", "--drain-s", "0", ...flags], {
    env: {
      ...Object.fromEntries(inherited),
      PYTHONPATH: [ROOT, process.env.PYTHONPATH].filter(Boolean).join(delimiter),
      XDG_CACHE_HOME: mkdtempSync(join(tmpdir(), "sd-worker-test-")),
      ...environment,
    },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  let log = "";
  const url = await new Promise<string>((resolve, reject) => {
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      log = (log + text).slice(-4000);
      const found = /http:\/\/127\.0\.0\.1:\d+/.exec(log);
      if (found) resolve(found[0]);
    });
    void gone.then(() => reject(new Error(`the worker ended before it listened:\n${log}`)));
  });
  return {
    url,
    async ready() {
      while (!(await fetch(`${url}/ready`)).ok) await new Promise((resolve) => setTimeout(resolve, 100));
    },
    async stop() {
      child.kill("SIGTERM");
      await gone;
    },
  };
}
