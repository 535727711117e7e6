// Writes src/schema.ts from the OpenAPI document of a worker that it starts: `npm run types`.
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { runnerImport } from "vite";

const testing = (name) => runnerImport(fileURLToPath(new URL(`../../testing/${name}.ts`, import.meta.url)));
const [{ module: schema }, { module: workers }] = [await testing("schema"), await testing("worker")];
const worker = await workers.startWorker();
try {
  await writeFile(new URL("../src/schema.ts", import.meta.url), await schema.generateSchema(worker.url));
} finally {
  await worker.stop();
}
