/* The screen of a user, with the last messages. */

/** @import { Bubble } from "./picture.js" */
/** @import { Rect } from "./shapes.js" */

import { part } from "../lab/parts.js";
import { panel, set, text, write } from "./shapes.js";

const SIDE = 10; // units, between a bubble and the edge of the screen
const MARGIN = 14; // on each side of the text in a bubble
const MOST_LETTERS = 40;

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
    return { row, shape, words, content: "", length: 0 };
  });
  const most = w - 2 * (SIDE + MARGIN); // units: the longest text

  /** @param {Bubble[]} bubbles */
  function draw(bubbles) {
    const shown = bubbles.slice(-room);
    rows.forEach((line, number) => {
      const { row, shape, words } = line;
      const bubble = shown[number];
      set(row, "visibility", bubble ? "visible" : "hidden");
      if (!bubble) return;
      const content = `${bubble.text}\n${bubble.reactions}`;
      if (line.content !== content || !line.length)
        Object.assign(line, { content, length: fit(words, bubble, most) });
      const width = line.length + 2 * MARGIN;
      const left = bubble.mine ? x + w - SIDE - width : x + SIDE;
      set(shape, "x", left);
      set(shape, "width", width);
      set(words, "x", left + MARGIN);
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
 * Write a text with its reactions, shortened if it is longer than `most`. Return its length.
 *
 * @param {SVGTextElement} node
 * @param {Bubble} bubble
 * @param {number} most
 */
function fit(node, { text: words, reactions }, most) {
  const end = reactions ? ` ${reactions}` : "";
  const letters = [...words].slice(0, MOST_LETTERS);
  write(node, (letters.length < [...words].length ? `${letters.join("")}…` : words) + end);
  while (node.getComputedTextLength() > most && letters.length > 1) {
    letters.pop();
    write(node, `${letters.join("")}…${end}`);
  }
  return Math.min(most, node.getComputedTextLength());
}
