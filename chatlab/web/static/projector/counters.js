/* The counters. All of them count stage events since this page was opened. */

import { el, setText } from "../chat/dom.js";

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
const format = (number) => number.toLocaleString("en");

export class Counters {
  #drawnAt = 0;
  #sweeps = 0;

  constructor(flow) {
    this.flow = flow;
    this.values = Object.fromEntries(
      COUNTERS.map(([name]) => [name, el("dd", { "data-number": name }, "0")]),
    );
    const tiles = COUNTERS.map(([name, label]) =>
      el(`div.p-tile.p-${name}`, {}, el("dt", {}, label), this.values[name]),
    );
    this.element = el("dl.p-numbers", {}, ...tiles);
    this.keyCounts = el("p.p-lives", {}, "");
    this.sweeper = this.#buildSweeper();
  }

  #buildSweeper() {
    this.heart = el("span.p-heart", { "aria-hidden": "true" });
    this.sweepText = el("p", {}, "Waiting for the first sweep");
    this.steps = el("ol.p-checks", {}, ...STEPS.map((step) => el("li", {}, step)));
    return el(
      "div.p-beat",
      {},
      el("h2", {}, this.heart, "Background worker"),
      this.steps,
      this.sweepText,
    );
  }

  draw() {
    const now = performance.now();
    if (this.flow.sweeps !== this.#sweeps) this.#drawSweep();
    if (now - this.#drawnAt < DRAW_INTERVAL_MS) return;
    this.#drawnAt = now;
    const counts = { ...this.flow.counts, rate: this.flow.rate() };
    for (const [name, node] of Object.entries(this.values)) setText(node, format(counts[name]));
    setText(
      this.keyCounts,
      `${format(this.flow.liveCount)} live · ${format(counts.cached)} cached · ${format(counts.cleaned)} cleaned`,
    );
  }

  #drawSweep() {
    this.#sweeps = this.flow.sweeps;
    const { live, cleaned } = this.flow.sweep;
    setText(
      this.sweepText,
      `Sweep ${this.#sweeps}: ${format(live)} live, ${format(cleaned)} cleaned`,
    );
    this.steps.children[2].classList.toggle("p-yes", live > 0);
    this.steps.children[3].classList.toggle("p-yes", cleaned > 0);
    this.sweeper.classList.remove("p-pulse");
    requestAnimationFrame(() => requestAnimationFrame(() => this.sweeper.classList.add("p-pulse")));
  }
}
