/** What the documentation shows in TypeScript is run as it stands. */

import { afterEach, beforeEach, expect, inject, test, vi } from "vitest";

import { runExample } from "../../testing/examples.ts";

const told: string[] = [];

beforeEach(() => {
  told.length = 0;
  vi.spyOn(console, "log").mockImplementation((text: string) => void told.push(text));
});
afterEach(() => void vi.restoreAllMocks());

test("the API guide", async () => {
  await runExample("docs/api.md", "ts", inject("open"));
  expect(told.slice(0, 8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((step) => `${step} of 8`));
  expect(told[8]).toMatch(/^image\/png, \d{3,} bytes$/);
});

test("the SDK's page", async () => {
  await runExample("ui/sdk/README.md", "ts", inject("open"));
  expect(told.at(-1)).toMatch(/^(\d+)\/\1$/);
});
