/* What the scenes are made of: boxes with titles, and arrows between them. A scene is an SVG, so it
   has the same proportions on every screen. */

import { part } from "../lab/parts.js";

/** @typedef {{x: number, y: number, w: number, h: number}} Rect */
/** @typedef {{x: number, y: number}} Point */

/**
 * Set an attribute if it differs.
 *
 * @param {Element} node
 * @param {string} name
 * @param {string | number} value
 */
export function set(node, name, value) {
  const text = typeof value === "number" ? value.toFixed(1) : value;
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/**
 * Set the text if it differs.
 *
 * @param {Node} node
 * @param {string} text
 */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @param {string} label
 * @param {number} width
 * @param {number} height
 */
export function newScene(label, width, height) {
  const svg = part(null, "svg", { class: "s-scene", role: "img", "aria-label": label });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return svg;
}

/**
 * @param {Element} parent
 * @param {Point} place
 * @param {string} className
 * @param {string} content
 */
export function text(parent, { x, y }, className, content = "") {
  const node = part(parent, "text", { x, y, class: className });
  node.textContent = content;
  return node;
}

/**
 * Write a text, and squeeze it if it is wider than its place. A text that is not shown has no width,
 * so call this with every drawing.
 *
 * @param {SVGTextElement} node
 * @param {string} content
 * @param {number} width
 */
export function writeWithin(node, content, width) {
  if (node.textContent === content && node.hasAttribute("data-fits")) return;
  write(node, content);
  node.removeAttribute("textLength");
  const natural = node.getComputedTextLength();
  node.toggleAttribute("data-fits", natural > 0);
  if (natural <= width) return;
  set(node, "textLength", width);
  set(node, "lengthAdjust", "spacingAndGlyphs");
}

/**
 * @param {Element} parent
 * @param {Rect} rect
 * @param {string} className
 */
export function panel(parent, { x, y, w, h }, className, radius = 14) {
  return part(parent, "rect", { x, y, width: w, height: h, rx: radius, class: className });
}

/** Where the message waits in a box: at its right end, so that it does not cover the title. */
export const spot = (/** @type {Rect} */ { x, y, w, h }) => ({ x: x + w - 52, y: y + h / 2 });
export const edge = (/** @type {Rect} */ { x, y, w, h }) => ({ x: x + w, y: y + h / 2 });
export const middle = (/** @type {Rect} */ { x, y, w, h }) => ({ x: x + w / 2, y: y + h / 2 });
const BASELINE = 11; // below the middle of a line of 32 units

/**
 * A box of a diagram, with its number.
 *
 * @param {Element} parent
 * @param {Rect} rect
 * @param {string} title
 * @param {number | null} number
 */
export function newBox(parent, rect, title, number) {
  const group = part(parent, "g", { class: "s-box" });
  const { x, y, w, h } = rect;
  panel(group, rect, "s-panel");
  const middleY = y + h / 2 + BASELINE;
  if (number !== null) text(group, { x: x + 22, y: middleY }, "s-number", String(number));
  const place = { x: number === null ? x + w / 2 : x + 58, y: middleY };
  const label = text(group, place, number === null ? "s-title s-centred" : "s-title", title);
  const tip = part(group, "title", {});
  return { group, label, tip, rect };
}

/**
 * @param {{group: Element}} box
 * @param {"" | "now" | "done" | "skipped"} state
 */
export const mark = ({ group }, state) => set(group, "class", `s-box${state ? ` s-${state}` : ""}`);

/**
 * A short arrow between two boxes, side by side or one above the other.
 *
 * @param {Element} parent
 * @param {Rect} from
 * @param {Rect} to
 */
export function arrow(parent, from, to) {
  const d =
    from.y === to.y
      ? `M${from.x + from.w + 2} ${middle(from).y}L${to.x - 4} ${middle(to).y}`
      : `M${middle(from).x} ${from.y + from.h + 2}L${middle(to).x} ${to.y - 4}`;
  part(parent, "path", { d, class: "s-arrow", "marker-end": "url(#s-tip)" });
}

/**
 * A line between a box and the store next to it.
 *
 * @param {Element} parent
 * @param {Point} from
 * @param {Point} to
 */
export function link(parent, from, to) {
  part(parent, "path", { d: `M${from.x} ${from.y}L${to.x} ${to.y}`, class: "s-link" });
}

export const hide = (/** @type {Element} */ node) => set(node, "visibility", "hidden");

/**
 * The tip of the arrows.
 *
 * @param {Element} svg
 */
export function defineTip(svg) {
  const marker = part(part(svg, "defs", {}), "marker", {
    id: "s-tip",
    class: "s-tip",
    viewBox: "0 0 10 10",
  });
  for (const [name, value] of Object.entries({
    refX: "8",
    refY: "5",
    markerWidth: "5",
    markerHeight: "5",
    orient: "auto",
  }))
    marker.setAttribute(name, value);
  part(marker, "path", { d: "M0 0L10 5L0 10z" });
}
