/** What the hooks' page shows is run as it stands. */

import "../../testing/dom.ts";

import { createElement, type FunctionComponent } from "react";
import { createRoot } from "react-dom/client";
import { expect, inject, test, vi } from "vitest";

import { runExample } from "../../testing/examples.ts";

test("the hooks' page", async () => {
  const { App } = await runExample("ui/react/README.md", "tsx", inject("open"));
  const place = document.createElement("div");
  const root = createRoot(place);
  root.render(createElement(App as FunctionComponent));
  await vi.waitFor(() => expect(place.querySelector("button")).not.toBeNull());
  place.querySelector("button")!.click();
  await vi.waitFor(() => expect(place.querySelector("img")?.src).toMatch(/^data:image\/jpeg;base64,/), 60_000);
  await vi.waitFor(() => expect(place.querySelectorAll("button").length).toBe(1), 60_000);
  expect(place.querySelector("p")).toBeNull();
  root.unmount();
});
