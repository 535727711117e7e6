/** Examples out of the documentation, as modules that can be run. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const ROOT = new URL("../../", import.meta.url);

/** What the first example of a page exports, once it has run to its end with `address` in place of the usual one. */
export async function runExample(page: string, language: "ts" | "tsx", address: string): Promise<Record<string, unknown>> {
  const text = readFileSync(new URL(page, ROOT), "utf8");
  const found = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "ms").exec(text)?.[1];
  if (!found) throw new Error(`${page} has no example in ${language}`);
  const folder = mkdtempSync(fileURLToPath(new URL("./example-", import.meta.url)));
  try {
    const file = join(folder, `example.${language}`);
    writeFileSync(file, found.replaceAll("http://127.0.0.1:8600", address));
    return (await import(/* @vite-ignore */ pathToFileURL(file).href)) as Record<string, unknown>;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
