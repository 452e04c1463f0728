/* What moves in the scenes: the message that travels, and the worker on its round. */

/** @import { Point } from "./shapes.js" */

import { part } from "../lab/parts.js";
import { set } from "./shapes.js";

export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

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
