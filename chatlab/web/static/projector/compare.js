/* Compare: 200 reads with the cache and 200 without it, and both distributions as dots. The reads
   take turns, so that both meet the same conditions. */

/** @import { Player } from "./players.js" */
/** @import { Message } from "./tape.js" */

import { el, setText } from "../chat/dom.js";
import { part } from "../lab/parts.js";
import { newScene, set, text, write } from "./shapes.js";

const READS = 200; // of each kind
const MESSAGES = 50; // that each read returns
const DRAW_INTERVAL_MS = 100;
const SHOWN = 0.97; // the part of the reads that the axis must have room for
const [WIDTH, HEIGHT, LEFT, RIGHT] = [1200, 520, 20, 1180];
/** @type {[kind: Kind, title: string, y: number][]} */
const ROWS = [
  ["with", "with the cache", 60],
  ["without", "without the cache", 280],
];

/** @typedef {"with" | "without"} Kind */

export class Compare {
  /** @type {Record<Kind, number[]>} */
  times = { with: [], without: [] }; // milliseconds
  isRunning = false;
  #hits = 0;
  #drawnAt = 0;

  /** @param {Player[]} readers */
  constructor(readers) {
    this.readers = readers;
    this.result = el("p.p-result", { role: "status" }, "");
    this.svg = newScene("How long the reads took", WIDTH, HEIGHT);
    this.rows = ROWS.map(([kind, title, y]) => this.#newRow(kind, title, y));
    this.ticks = [0, 1, 2, 3, 4].map((place) =>
      text(
        this.svg,
        { x: LEFT + (place * (RIGHT - LEFT)) / 4, y: HEIGHT - 14 },
        place === 4 ? "s-tick s-right" : place ? "s-tick s-centred" : "s-tick",
      ),
    );
    this.element = el(
      "dialog.p-more.p-compare",
      { "aria-label": "Compare", onclose: () => this.stop() },
      el("form", { method: "dialog" }, el("button.p-close", { "aria-label": "Close" }, "×")),
      el("h2", {}, `${READS} reads with the cache, ${READS} without it`),
      this.svg,
      this.result,
    );
  }

  /**
   * @param {Kind} kind
   * @param {string} title
   * @param {number} y
   */
  #newRow(kind, title, y) {
    const group = part(this.svg, "g", { class: `s-row s-${kind}` });
    text(group, { x: LEFT, y: y - 14 }, "s-title", title);
    const median = part(group, "path", { class: "s-median" });
    const value = text(group, { x: RIGHT, y: y - 14 }, "s-title s-right");
    const dots = Array.from({ length: READS }, () =>
      part(group, "circle", { r: 7, cx: -20, cy: -20, class: "s-dot" }),
    );
    return { kind, y, median, value, dots };
  }

  /** Show the dialog, and measure. */
  async run() {
    if (!this.element.open) this.element.showModal();
    this.times = { with: [], without: [] };
    this.#hits = 0;
    this.isRunning = true;
    setText(this.result, "Preparing a conversation…");
    await this.#prepare();
    for (let number = 0; number < READS && this.isRunning; number += 1) {
      await this.#read("with", number);
      await this.#read("without", number);
      if (performance.now() - this.#drawnAt > DRAW_INTERVAL_MS) this.draw();
    }
    this.draw();
    if (this.isRunning) setText(this.result, this.#sentence());
    this.isRunning = false;
  }

  stop() {
    this.isRunning = false;
  }

  /** The conversation needs enough messages, or the reads would be too short to differ. */
  async #prepare() {
    const [one, other] = this.readers;
    const { body } = await one.read(other.id, { limit: MESSAGES, fresh: true });
    for (
      let count = /** @type {Message[]} */ (body).length;
      count < MESSAGES && this.isRunning;
      count += 1
    )
      await one.send(
        "http",
        other.id,
        `Message ${count + 1} of a conversation that is read often.`,
      );
    await one.read(other.id, { limit: MESSAGES }); // fills the cache
  }

  /**
   * Two users take turns, because the service limits the requests of one.
   *
   * @param {Kind} kind
   * @param {number} number
   */
  async #read(kind, number) {
    const [reader, other] = number % 2 ? this.readers : [...this.readers].reverse();
    const { tookMs, cache } = await reader.read(other.id, {
      limit: MESSAGES,
      fresh: kind === "without",
    });
    this.times[kind].push(tookMs);
    if (kind === "with" && cache === "hit") this.#hits += 1;
  }

  #sentence() {
    const [fast, slow] = [medianOf(this.times.with), medianOf(this.times.without)];
    if (!this.#hits) return "The cache is off: all reads went to MongoDB.";
    const difference = Math.round(100 * (1 - fast / slow));
    const gain = difference > 0 ? `${difference} % less` : "not less";
    return `Half of the reads took less than ${fast.toFixed(1)} ms with the cache, and ${slow.toFixed(1)} ms without it: ${gain}. ${this.#hits} of ${READS} were hits.`;
  }

  draw() {
    this.#drawnAt = performance.now();
    const all = [...this.times.with, ...this.times.without].sort((a, b) => a - b);
    const most = Math.max(1, all[Math.floor(SHOWN * (all.length - 1))] ?? 1);
    const x = (/** @type {number} */ ms) => LEFT + Math.min(1, ms / most) * (RIGHT - LEFT);
    for (const { kind, y, median, value, dots } of this.rows) {
      const times = this.times[kind];
      dots.forEach((dot, number) => {
        set(dot, "cx", times[number] === undefined ? -20 : x(times[number]));
        set(dot, "cy", times[number] === undefined ? -20 : y + 18 + ((number * 37) % 120));
      });
      if (!times.length) continue;
      const middle = medianOf(times);
      set(median, "d", `M${x(middle).toFixed(1)} ${y}v150`);
      write(value, `${middle.toFixed(1)} ms`);
    }
    this.ticks.forEach((tick, place) => {
      write(tick, `${((most * place) / 4).toFixed(1)} ms`);
    });
  }
}

/** @param {number[]} times */
function medianOf(times) {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
