/** Where the page begins. */

import { Client } from "@sd-worker/sdk";
import { WorkerProvider } from "@sd-worker/react";
import { createRoot } from "react-dom/client";

import { App } from "./App.tsx";
import { Board } from "./board.ts";
import { Gallery } from "./gallery.ts";
import "./styles/index.css";
import { applyTheme } from "./theme.ts";
import { readToken } from "./token.ts";

applyTheme();
const client = new Client({ token: readToken });
const gallery = new Gallery();
const board = new Board(client, gallery);
createRoot(document.getElementById("root")!).render(
  <WorkerProvider client={client}>
    <App board={board} gallery={gallery} />
  </WorkerProvider>,
);
