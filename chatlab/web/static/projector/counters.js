/* The counters. All of them count stage events since this page was opened. */

import { el, setText } from "../chat/dom.js";

/** @import { FlowState, SweepEvent } from "./flow_state.js" */

/** @type {[name: "rate" | keyof FlowState["counts"], label: string][]} */
const COUNTERS = [
  ["rate", "messages a second"],
  ["sends", "messages sent"],
  ["hit", "hits"],
  ["partial", "partials"],
  ["miss", "misses"],
  ["bypass", "bypasses"],
  ["storeReads", "MongoDB reads"],
  ["saves", "MongoDB saves"],
];
const STEPS = [
  "Get keys message:*",
  "Check TTL of each",
  "TTL valid: Cache hit",
  "Expired: Cache cleaned",
];
const DRAW_INTERVAL_MS = 200; // a number that changes faster cannot be read
const format = (/** @type {number} */ number) => number.toLocaleString("en");

export class Counters {
  #drawnAt = 0;
  #sweeps = 0;

  /** @param {FlowState} flow */
  constructor(flow) {
    this.flow = flow;
    this.values = COUNTERS.map(([name]) => el("dd", { "data-number": name }, "0"));
    const tiles = COUNTERS.map(([name, label], place) =>
      el(`div.p-tile.p-${name}`, {}, el("dt", {}, label), this.values[place]),
    );
    this.element = el("dl.p-numbers", {}, ...tiles);
    this.keyCounts = el("p.p-key-counts", {}, "");
    this.sweepText = el("p", {}, "Waiting for the first sweep");
    this.steps = STEPS.map((step) => el("li", {}, step));
    const heart = el("span.p-heart", { "aria-hidden": "true" });
    this.sweeper = el(
      "div.p-sweeps",
      {},
      el("h2", {}, heart, "Background worker"),
      el("ol.p-checks", {}, ...this.steps),
      this.sweepText,
    );
  }

  draw() {
    const now = performance.now();
    if (this.flow.sweep && this.flow.sweeps !== this.#sweeps) this.#drawSweep(this.flow.sweep);
    if (now - this.#drawnAt < DRAW_INTERVAL_MS) return;
    this.#drawnAt = now;
    const counts = { ...this.flow.counts, rate: this.flow.rate() };
    COUNTERS.forEach(([name], place) => {
      setText(this.values[place], format(counts[name]));
    });
    setText(
      this.keyCounts,
      `${format(this.flow.liveCount)} live · ${format(counts.cached)} cached · ${format(counts.cleaned)} cleaned`,
    );
  }

  /** @param {SweepEvent} sweep */
  #drawSweep({ live, cleaned }) {
    this.#sweeps = this.flow.sweeps;
    setText(
      this.sweepText,
      `Sweep ${this.#sweeps}: ${format(live)} live, ${format(cleaned)} cleaned`,
    );
    this.steps[2].classList.toggle("p-yes", live > 0);
    this.steps[3].classList.toggle("p-yes", cleaned > 0);
    this.sweeper.classList.remove("p-pulse");
    requestAnimationFrame(() => requestAnimationFrame(() => this.sweeper.classList.add("p-pulse")));
  }
}
