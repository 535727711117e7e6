/** Small texts by name in the browser's own storage; where that is full or forbidden, as long as the page is open. */

type Place = "localStorage" | "sessionStorage";

const untilLeft = new Map<string, string>();

export function recall(name: string, place: Place = "localStorage"): string | null {
  try {
    return untilLeft.get(place + name) ?? window[place].getItem(name);
  } catch {
    return null;
  }
}

export function memorize(name: string, value: string, place: Place = "localStorage"): void {
  try {
    window[place].setItem(name, value);
    untilLeft.delete(place + name);
  } catch {
    untilLeft.set(place + name, value);
  }
}

export function forget(name: string, place: Place = "localStorage"): void {
  untilLeft.delete(place + name);
  try {
    window[place].removeItem(name);
  } catch {
    // Then nothing was kept there either.
  }
}
