/** Two real workers for all tests: an open one, and a guarded one in whose queue one job may wait. */

import type { TestProject } from "vitest/node";

import { startWorker } from "./worker.ts";

export const TOKEN = "a-token-of-the-tests";

declare module "vitest" {
  export interface ProvidedContext {
    open: string;
    guarded: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const workers = await Promise.all([
    startWorker(),
    startWorker(["--queue-capacity", "1", "--max-rows", "2", "--retain-jobs", "1"], { SDW_TOKEN: TOKEN }),
  ]);
  await Promise.all(workers.map((worker) => worker.ready()));
  project.provide("open", workers[0].url);
  project.provide("guarded", workers[1].url);
  return async () => {
    await Promise.all(workers.map((worker) => worker.stop()));
  };
}
