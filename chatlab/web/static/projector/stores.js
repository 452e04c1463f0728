/* The two stores of the scenes: MongoDB, and Redis with its keys. */

/** @import { Key } from "./picture.js" */
/** @import { Rect } from "./shapes.js" */

import { part } from "../lab/parts.js";
import { panel, set, text, write, writeWithin } from "./shapes.js";

const NARROW = 320; // units: there is no room for a note next to the title

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
  const note = text(group, { x: x + w / 2, y: y + 104 }, "s-note s-centred");

  /**
   * @param {{isMongoUp: boolean}} picture
   * @param {boolean} isFull - what the scene shows is in it
   * @param {string} words
   */
  function draw({ isMongoUp }, isFull, words = "on disk, for good") {
    write(note, isMongoUp ? words : "no answer");
    const state = isMongoUp ? (isFull ? " s-full" : "") : " s-away";
    set(group, "class", `s-store s-mongo${state}`);
  }

  return { draw, rect };
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
    write(note, isUp ? (w < NARROW ? "" : "in memory") : "no answer");
    set(group, "class", `s-store s-redis${isUp ? "" : " s-away"}`);
    lines.forEach(({ row, name, bar, width }, number) => {
      const key = keys[number];
      set(row, "visibility", key && isUp ? "visible" : "hidden");
      if (!key || !isUp) return;
      const left = key.state === "live" ? Math.max(0, key.deadline - at) : 0;
      writeWithin(name, short(key.key), width);
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
