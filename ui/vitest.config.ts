/** SDK and hooks against a real worker, which `testing/global.ts` starts. */

import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["sd-worker-source"] },
  ssr: { resolve: { conditions: ["sd-worker-source"] } },
  test: {
    include: ["*/tests/**/*.test.ts"],
    globalSetup: "testing/global.ts",
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // One file at a time: they share a worker, and that shares its processor with whatever else runs.
    fileParallelism: false,
  },
});
