/** Builds the page into the Python package. `npm run dev -w studio` shows it against a worker on its usual port. */

import { defineConfig } from "vite";

const WORKER = process.env.SDW_STUDIO_WORKER ?? "http://127.0.0.1:8600";

export default defineConfig({
  resolve: { conditions: ["sd-worker-source", "module", "browser", "development|production"] },
  build: {
    outDir: "../../worker/studio",
    emptyOutDir: false,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
  },
  server: { proxy: Object.fromEntries(["/v1", "/ready", "/metrics"].map((path) => [path, WORKER])) },
});
