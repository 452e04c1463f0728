/* The screen of a user, with the last messages. */

/** @import { Bubble } from "./picture.js" */
/** @import { Rect } from "./shapes.js" */

import { part } from "../lab/parts.js";
import { panel, set, text, write } from "./shapes.js";

/**
 * The screen of a user, with the last messages.
 *
 * @param {Element} parent
 * @param {Rect} rect
 * @param {string} name
 */
export function newPhone(parent, rect, name) {
  const { x, y, w, h } = rect;
  const group = part(parent, "g", { class: "s-phone", "data-user": name });
  panel(group, rect, "s-panel", 22);
  const title = text(group, { x: x + w / 2, y: y + 40 }, "s-title s-centred", name);
  const room = Math.floor((h - 60) / 54);
  const rows = Array.from({ length: room }, (_, number) => {
    const row = part(group, "g", { class: "s-bubble", visibility: "hidden" });
    const top = y + 56 + number * 54;
    const shape = panel(row, { x: 0, y: top, w: 0, h: 46 }, "s-speech", 16);
    const words = text(row, { x: 0, y: top + 33 }, "s-words", "");
    return { row, shape, words };
  });
  const most = Math.floor((w - 60) / 16);

  /** @param {Bubble[]} bubbles */
  function draw(bubbles) {
    const shown = bubbles.slice(-room);
    rows.forEach(({ row, shape, words }, number) => {
      const bubble = shown[number];
      set(row, "visibility", bubble ? "visible" : "hidden");
      if (!bubble) return;
      const content = fit(bubble, most);
      const width = Math.min(w - 20, [...content].length * 16 + 28);
      const left = bubble.mine ? x + w - 10 - width : x + 10;
      set(shape, "x", left);
      set(shape, "width", width);
      set(words, "x", left + 14);
      write(words, content);
      set(
        row,
        "class",
        `s-bubble${bubble.mine ? " s-mine" : ""}${bubble.isSent ? "" : " s-unsent"}`,
      );
    });
  }

  return { group, draw, title, rect };
}

/**
 * @param {Bubble} bubble
 * @param {number} most
 */
function fit({ text: words, reactions }, most) {
  const content = [...words];
  const room = most - [...reactions].length;
  const short = content.length > room ? `${content.slice(0, room - 1).join("")}…` : words;
  return reactions ? `${short} ${reactions}` : short;
}
