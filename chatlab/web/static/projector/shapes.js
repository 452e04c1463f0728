/* Shapes of the scenes: boxes, stores, phones and the message that travels. A scene is an SVG, so
   it has the same proportions on every screen. */

/** @import { Bubble, Key } from "./picture.js" */

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
export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
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
 * A short arrow between two boxes, one above the other.
 *
 * @param {Element} parent
 * @param {Rect} from
 * @param {Rect} to
 */
export function arrow(parent, from, to) {
  const start = { x: from.x + from.w / 2, y: from.y + from.h };
  const end = { x: to.x + to.w / 2, y: to.y };
  const d = `M${start.x} ${start.y + 2}L${end.x} ${end.y - 4}`;
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

/**
 * MongoDB: what is saved stays.
 *
 * @param {Element} parent
 * @param {Rect} rect
 */
export function newDatabase(parent, rect) {
  const { x, y, w, h } = rect;
  const group = part(parent, "g", { class: "s-store s-mongo" });
  const lid = 16;
  const d = `M${x} ${y + lid}a${w / 2} ${lid} 0 0 1 ${w} 0v${h - 2 * lid}a${w / 2} ${lid} 0 0 1 ${-w} 0z`;
  part(group, "path", { d, class: "s-panel" });
  part(group, "path", { d: `M${x} ${y + lid}a${w / 2} ${lid} 0 0 0 ${w} 0`, class: "s-lid" });
  text(group, { x: x + w / 2, y: y + 66 }, "s-title s-centred", "MongoDB");
  const note = text(group, { x: x + w / 2, y: y + 104 }, "s-note s-centred", "on disk, for good");
  return { group, note, rect };
}

/**
 * Redis, with rows for keys and the time they have left.
 *
 * @param {Element} parent
 * @param {Rect} rect
 * @param {number} rows
 */
export function newRedis(parent, rect, rows) {
  const { x, y, w } = rect;
  const group = part(parent, "g", { class: "s-store s-redis" });
  panel(group, rect, "s-panel");
  text(group, { x: x + 16, y: y + 40 }, "s-title", "Redis");
  const note = text(group, { x: x + w - 16, y: y + 40 }, "s-note s-right", "in memory");
  const lines = Array.from({ length: rows }, (_, number) => {
    const top = y + 56 + number * 66;
    const row = part(group, "g", { class: "s-key", visibility: "hidden" });
    const name = text(row, { x: x + 16, y: top + 28 }, "s-mono", "");
    panel(row, { x: x + 16, y: top + 38, w: w - 32, h: 16 }, "s-track", 8);
    const bar = panel(row, { x: x + 16, y: top + 38, w: w - 32, h: 16 }, "s-bar", 8);
    return { row, name, bar, width: w - 32 };
  });

  /**
   * @param {(Key | undefined)[]} keys
   * @param {number} at
   * @param {(key: string) => string} short
   * @param {boolean} isUp
   */
  function draw(keys, at, short, isUp) {
    write(note, isUp ? "in memory" : "no answer");
    set(group, "class", `s-store s-redis${isUp ? "" : " s-away"}`);
    lines.forEach(({ row, name, bar, width }, number) => {
      const key = keys[number];
      set(row, "visibility", key && isUp ? "visible" : "hidden");
      if (!key || !isUp) return;
      const left = key.state === "live" ? Math.max(0, key.deadline - at) : 0;
      write(name, short(key.key));
      set(bar, "width", width * Math.min(1, left / key.ttlMs));
      set(bar, "data-left", levelOf(left / key.ttlMs));
      set(row, "class", left ? "s-key" : "s-key s-over");
      set(row, "data-key", key.key);
    });
  }

  return { group, draw, rect };
}

export const levelOf = (/** @type {number} */ share) =>
  share > 0.4 ? "much" : share > 0.2 ? "some" : "little";

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

/**
 * The worker on its round.
 *
 * @param {Element} parent
 */
export function newWorker(parent) {
  const group = part(parent, "g", { class: "s-token", visibility: "hidden" });
  part(group, "circle", { r: 36, class: "s-halo" });
  part(group, "circle", { r: 20, cx: -4, cy: -4, class: "s-glass" });
  part(group, "path", { d: "M11 11L28 28", class: "s-handle" });
  return group;
}

/**
 * The message that travels.
 *
 * @param {Element} parent
 */
export function newToken(parent) {
  const group = part(parent, "g", { class: "s-token", visibility: "hidden" });
  part(group, "circle", { r: 36, class: "s-halo" });
  part(group, "path", {
    d: "M-27-19h54a8 8 0 0 1 8 8v22a8 8 0 0 1-8 8h-34l-12 13v-13h-8a8 8 0 0 1-8-8v-22a8 8 0 0 1 8-8z",
    class: "s-letter",
  });
  part(group, "path", { d: "M-21-6h42M-21 7h28", class: "s-lines" });
  return group;
}

/**
 * Put the message on its way: `progress` is the part of the path that lies behind it. With reduced
 * motion it is at the end at once.
 *
 * @param {Element} token
 * @param {Point[]} path
 * @param {number} progress
 */
export function travel(token, path, progress) {
  const share = reducedMotion.matches ? 1 : progress;
  const lengths = path
    .slice(1)
    .map((point, index) => Math.hypot(point.x - path[index].x, point.y - path[index].y));
  let rest = ease(share) * lengths.reduce((sum, length) => sum + length, 0);
  let index = 0;
  while (index < lengths.length - 1 && rest > lengths[index]) rest -= lengths[index++];
  const part_ = lengths[index] ? Math.min(1, rest / lengths[index]) : 0;
  const [from, to] = [path[index], path[index + 1] ?? path[index]];
  const place = { x: from.x + (to.x - from.x) * part_, y: from.y + (to.y - from.y) * part_ };
  set(token, "transform", `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`);
  set(token, "visibility", "visible");
}

const ease = (/** @type {number} */ share) =>
  share < 0.5 ? 2 * share * share : 1 - (2 - 2 * share) ** 2 / 2;

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
