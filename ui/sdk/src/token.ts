/** A bearer token, as a header can carry it. */

import { WorkerError } from "./problem.ts";

/** Whether a worker could be given this token: visible ASCII, and spaces inside. */
export function isToken(text: string): boolean {
  return /^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/.test(text);
}

/** Without the white space around it. Throws where it is none; the error does not show it. */
export function checkedToken(text: string): string {
  const token = text.trim();
  if (token === "" || isToken(token)) return token;
  throw new WorkerError(401, "unauthorized", "The token holds a character that is not visible ASCII", [], null);
}
