/** The worker's bearer token: for this visit, or kept on this device where the person says so. */

import { memorize, recall, forget } from "./memory.ts";

const NAME = "sd-worker.token";

export function readToken(): string | null {
  return recall(NAME, "sessionStorage") ?? recall(NAME);
}

export function keepToken(token: string, onDevice: boolean): void {
  forgetToken();
  memorize(NAME, token, onDevice ? "localStorage" : "sessionStorage");
}

export function forgetToken(): void {
  forget(NAME, "sessionStorage");
  forget(NAME);
}
