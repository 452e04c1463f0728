/* The numbers: what the users of this page have done since it was opened, or since the reset. */

/** @import { Presentation } from "./presentation.js" */

import { el, setText } from "../chat/dom.js";
import { keyCount } from "./words.js";

/** @type {[name: string, label: string][]} */
const NUMBERS = [
  ["sent", "sent"],
  ["changed", "changed"],
  ["hit", "hits"],
  ["partial", "partial"],
  ["miss", "misses"],
  ["bypass", "bypasses"],
  ["live", "keys in Redis"],
];
const DRAW_INTERVAL_MS = 200; // a number that changes faster cannot be read

export class Numbers {
  #drawnAt = 0;

  /** @param {Presentation} presentation */
  constructor(presentation) {
    this.presentation = presentation;
    this.values = NUMBERS.map(([name]) => el("dd", { "data-number": name }, "0"));
    const tiles = NUMBERS.map(([name, label], place) =>
      el(`div.p-tile.p-${name}`, {}, this.values[place], el("dt", {}, label)),
    );
    this.element = el(
      "dl.p-numbers",
      { "aria-label": "Numbers since this page was opened" },
      ...tiles,
    );
  }

  draw() {
    if (performance.now() - this.#drawnAt < DRAW_INTERVAL_MS) return;
    this.#drawnAt = performance.now();
    const { picture, at } = this.presentation;
    /** @type {Record<string, number | string>} */
    const numbers = { ...picture.counts, live: keyCount(picture, at ?? 0) };
    NUMBERS.forEach(([name], place) => {
      setText(this.values[place], numbers[name].toLocaleString("en"));
    });
  }
}
