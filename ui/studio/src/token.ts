/** The worker's bearer token: for this visit, or kept on this device where the person says so. */

import { isToken } from "@sd-worker/sdk";

import { memorize, recall, forget } from "./memory.ts";

const NAME = "sd-worker.token";

export function readToken(): string | null {
  const token = recall(NAME, "sessionStorage") ?? recall(NAME);
  if (token === null || isToken(token)) return token;
  forgetToken(); // no request could be sent with it
  return null;
}

/** False where it can be no token: then nothing is kept. */
export function keepToken(token: string, onDevice: boolean): boolean {
  if (!isToken(token)) return false;
  forgetToken();
  memorize(NAME, token, onDevice ? "localStorage" : "sessionStorage");
  return true;
}

export function forgetToken(): void {
  forget(NAME, "sessionStorage");
  forget(NAME);
}
