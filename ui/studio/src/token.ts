/** The worker's bearer token: for this visit, or kept on this device where the person says so. */

const NAME = "sd-worker.token";

export function readToken(): string | null {
  return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
}

export function keepToken(token: string, onDevice: boolean): void {
  forgetToken();
  (onDevice ? localStorage : sessionStorage).setItem(NAME, token);
}

export function forgetToken(): void {
  sessionStorage.removeItem(NAME);
  localStorage.removeItem(NAME);
}
