/* The numbers: all of them counted from flow events since this page was opened. */

import { el, say } from "../chat/dom.js";

const TILES = [
  ["rate", "messages a second"],
  ["sends", "messages sent"],
  ["hit", "hits"],
  ["partial", "partials"],
  ["miss", "misses"],
  ["bypass", "bypasses"],
  ["storeReads", "MongoDB reads"],
  ["saves", "MongoDB saves"],
];
const EVERY = 200; // ms: a number that changes faster cannot be read

export class Numbers {
  #drawnAt = 0;
  #sweeps = 0;

  constructor(story) {
    this.story = story;
    this.values = Object.fromEntries(TILES.map(([name]) => [name, el("dd", { "data-number": name }, "0")]));
    const tiles = TILES.map(([name, label]) => el(`div.p-tile.p-${name}`, {}, el("dt", {}, label), this.values[name]));
    this.element = el("dl.p-numbers", {}, ...tiles);
    this.lives = el("p.p-lives", {}, "");
    this.beat = this.#makeBeat();
  }

  #makeBeat() {
    this.heart = el("span.p-heart", { "aria-hidden": "true" });
    this.told = el("p", {}, "waiting for its first beat");
    this.checks = el("ol.p-checks", {}, ...["Get keys message:*", "Check TTL of each", "TTL valid: Cache hit", "Expired: Cache cleaned"].map((step) => el("li", {}, step)));
    return el("div.p-beat", {}, el("h2", {}, this.heart, "Background worker"), this.checks, this.told);
  }

  draw() {
    const now = performance.now();
    if (this.story.sweeps !== this.#sweeps) this.#pulse();
    if (now - this.#drawnAt < EVERY) return;
    this.#drawnAt = now;
    const { counts } = this.story;
    const rate = this.story.rate();
    for (const [name, node] of Object.entries(this.values)) say(node, (name === "rate" ? rate : counts[name]).toLocaleString("en"));
    const living = this.story.living;
    say(this.lives, `${living.toLocaleString("en")} live · ${counts.cached.toLocaleString("en")} cached · ${counts.cleaned.toLocaleString("en")} cleaned`);
  }

  #pulse() {
    this.#sweeps = this.story.sweeps;
    const { live, cleaned } = this.story.sweep;
    say(this.told, `Beat ${this.#sweeps}: ${live.toLocaleString("en")} live, ${cleaned.toLocaleString("en")} cleaned`);
    this.checks.children[2].classList.toggle("p-yes", live > 0);
    this.checks.children[3].classList.toggle("p-yes", cleaned > 0);
    this.beat.classList.remove("p-pulse");
    requestAnimationFrame(() => requestAnimationFrame(() => this.beat.classList.add("p-pulse")));
  }
}
