/** Where the keyboard goes on when what it was on leaves the page. */

/** At the card behind that one, or before it; without any other at the prompt, or at what else can be filled in. */
export function focusBeside(id: string): void {
  const cards = Array.from(document.querySelectorAll<HTMLElement>("[data-card]"));
  const at = cards.findIndex(({ dataset }) => dataset.card === id);
  const field = document.querySelector<HTMLElement>("main textarea") ?? document.querySelector<HTMLElement>("main input");
  (cards[at + 1] ?? cards[at - 1] ?? field)?.focus();
}
