/* The numbers: what the users of this page have done since it was opened, or since the reset. */

/** @import { Presentation } from "./presentation.js" */

import { el, setText } from "../chat/dom.js";
import { keyCount } from "./words.js";

/** @type {[name: string, one: string, many: string][]} */
const NUMBERS = [
  ["sent", "sent", "sent"],
  ["changed", "changed", "changed"],
  ["hit", "hit", "hits"],
  ["partial", "partial", "partial"],
  ["miss", "miss", "misses"],
  ["bypass", "bypass", "bypasses"],
  ["live", "key in Redis", "keys in Redis"],
];
export const COUNTED = 4; // of the users, the first ones; the others only measure
const DRAW_INTERVAL_MS = 200; // a number that changes faster cannot be read

export class Numbers {
  #drawnAt = 0;

  /** @param {Presentation} presentation */
  constructor(presentation) {
    this.presentation = presentation;
    this.values = NUMBERS.map(([name]) => el("dd", { "data-number": name }, "0"));
    this.labels = NUMBERS.map(([, , many]) => el("dt", {}, many));
    const tiles = NUMBERS.map(([name], place) =>
      el(`div.p-tile.p-${name}`, {}, this.values[place], this.labels[place]),
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
    const { picture } = this.presentation;
    /** @type {Record<string, number | string>} */
    const numbers = { ...picture.counts, live: keyCount(this.presentation) };
    NUMBERS.forEach(([name, one, many], place) => {
      const value = numbers[name].toLocaleString("en");
      setText(this.values[place], value);
      setText(this.labels[place], value === "1" ? one : many);
    });
  }
}
