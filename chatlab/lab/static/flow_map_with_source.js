// The flow map as the document draws it: two transports at the top, and the boxes below each other.
// A click or Enter on a box shows its functions, from the files that run.

/**
 * @typedef {object} About
 * @property {"send" | "read" | "change"} of
 * @property {Record<string, string>} faces - the labels of the transports
 * @property {Record<string, Source[]>} sources - by stage; "way" is the function that calls them
 *   all
 *
 * @typedef {{name: string, file: string, first: number, last: number, text: string}} Source
 */
/** @import { Model } from "../../web/static/lab/flow_map.js" */
/** @import { Options } from "./widget.js" */

import flowMap from "../../web/static/lab/flow_map.js";
import { add } from "../../web/static/lab/parts.js";

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Omit<Options, "about"> & {about: About}} options
 */
export default function flowMapWithSource(root, model, { about, big }) {
  const label = `The boxes that a ${about.of} passes; Enter shows the source of a box`;
  const drawing = flowMap(root, model, { big, faces: about.faces, apart: true, label });
  const { map } = drawing;
  map.classList.add("cl-drawn");
  const way = add(map, "button", "cl-way", `The whole way: ${about.sources.way[0].name}`);
  way.dataset.stage = "way";
  const shown = add(map, "section", "cl-source");
  shown.hidden = true;
  shown.setAttribute("aria-live", "polite");
  /** @type {HTMLElement[]} */
  const boxes = [...map.querySelectorAll("li"), way];
  map.querySelector("ol")?.setAttribute("role", "group");
  for (const box of boxes) prepare(box);
  way.title = "Show the function that goes through all boxes";

  /** @param {HTMLElement} box */
  function prepare(box) {
    box.setAttribute("role", "button");
    box.setAttribute("aria-expanded", "false");
    box.title = "Show the source of this box";
    box.addEventListener("click", () => toggle(box));
    box.addEventListener("keydown", (event) => press(event, box));
  }

  /**
   * @param {KeyboardEvent} event
   * @param {HTMLElement} box
   */
  function press(event, box) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") toggle(box);
    else if (event.key === "Escape") close();
    else if (step) boxes[boxes.indexOf(box) + step]?.focus();
    else return;
    event.preventDefault();
  }

  /** @param {HTMLElement} box */
  function toggle(box) {
    const open = box.getAttribute("aria-expanded") === "true";
    close();
    if (open) return;
    box.setAttribute("aria-expanded", "true");
    shown.replaceChildren(...about.sources[box.dataset.stage ?? ""].map(listing));
    shown.hidden = false;
  }

  function close() {
    for (const box of boxes) box.setAttribute("aria-expanded", "false");
    shown.hidden = true;
  }

  return drawing;
}

/** @param {Source} source */
function listing({ name, file, first, last, text }) {
  const figure = document.createElement("figure");
  const caption = add(figure, "figcaption", "cl-file");
  add(caption, "strong", "", name);
  add(caption, "span", "", ` ${file}, lines ${first} to ${last}`);
  const code = add(figure, "pre", "cl-code");
  code.tabIndex = 0;
  lines(text).forEach((pieces, count) => {
    const row = add(code, "span", "cl-line");
    add(row, "span", "cl-number", String(first + count));
    for (const [kind, piece] of pieces) add(row, "span", kind, piece);
    row.append("\n");
  });
  return figure;
}

const TOKENS =
  /(?<remark>#.*)|(?<text>"""[\s\S]*?"""|f?"[^"\n]*")|\b(?<word>async|await|def|class|return|if|else|elif|for|in|not|is|and|or|None|True|False|with|as|try|except|raise|yield|while|lambda|assert|match|case|del)\b/g;

/**
 * Return the text as lines of [class, piece]. Only comments, strings and keywords are highlighted.
 *
 * @param {string} text
 */
function lines(text) {
  /** @type {[string, string][][]} */
  const found = [[]];
  const put = (/** @type {string} */ kind, /** @type {string} */ piece) =>
    piece.split("\n").forEach((part, count) => {
      if (count) found.push([]);
      found.at(-1)?.push([kind, part]);
    });
  let done = 0;
  for (const match of text.matchAll(TOKENS)) {
    const [kind] =
      Object.entries(match.groups ?? {}).find(([, piece]) => piece !== undefined) ?? [];
    put("", text.slice(done, match.index));
    put(`cl-${kind}`, match[0]);
    done = match.index + match[0].length;
  }
  put("", text.slice(done));
  return found;
}
