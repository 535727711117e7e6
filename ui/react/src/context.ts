/** Which worker the hooks below it talk to. */

import { Client } from "@sd-worker/sdk";
import { createContext, createElement, useContext, type ReactNode } from "react";

const ClientContext = createContext<Client | null>(null);

/** Everything inside talks to `client`; keep that one stable across renderings. */
export function WorkerProvider({ client, children }: { client: Client; children?: ReactNode }): ReactNode {
  return createElement(ClientContext.Provider, { value: client }, children);
}

/** The client of the nearest `WorkerProvider`. */
export function useClient(): Client {
  const client = useContext(ClientContext);
  if (client === null) throw new Error("no WorkerProvider is around this component");
  return client;
}
