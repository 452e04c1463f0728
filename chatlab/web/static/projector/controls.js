/* What the instructor does: send, burst, read, stop the picture, and turn the service's two settings. Each has a key. */

import { el, say } from "../chat/dom.js";
import { plainly } from "../chat/words.js";

const AT_ONCE = 24; // messages of a burst under way
const SLOWER = 4; // times the usual life, in a slow class
const MODES = ["window", "drawn", "off"];
const LINES = ["Hello!", "Did it arrive?", "Watch the boxes.", "And now?", "Five seconds…", "Still there?", "It will be gone soon.", "In MongoDB it stays."];
const seconds = (number) => `${Number(number.toFixed(2))} s`;

export class Controls {
  #line = 0;
  #running = false; // a burst is under way
  #closing = new AbortController();
  #now = null; // the settings as they are
  #troubles = new Map(); // what to say besides them

  constructor(people, { turn, pause }) {
    Object.assign(this, { people, turn, pause, paused: false });
    this.last = el("p.p-last", { role: "status" }, "");
    this.label = el("p.p-label", { role: "status" }, "");
    this.size = el("select", { "aria-label": "Messages in a burst" }, ...[50, 500, 2000].map((size) => el("option", { selected: size === 500 }, String(size))));
    this.buttons = {
      h: this.#button("h", "Send by HTTP", () => this.#send("http")),
      s: this.#button("s", "Send by WebSocket", () => this.#send("socket")),
      r: this.#button("r", "Read", () => this.#read()),
      b: this.#button("b", "Burst", () => this.#burst()),
      p: this.#button("p", "Pause picture", () => this.#pause()),
      l: this.#button("l", "Slow class", () => this.#slow()),
    };
    const { h, s, r, b, p, l } = this.buttons;
    this.modes = this.#modes();
    this.element = el(
      "header.p-head", {},
      el("h1", {}, "The diagram alive"),
      el("div.p-controls", { role: "toolbar", "aria-label": "Controls" }, h, s, r, el("span.p-pair", {}, b, this.size), p, l),
      el("div.p-says", {}, this.modes, this.label, this.last),
    );
  }

  #button(key, text, act) {
    const words = el("span", {}, text);
    const button = el("button", { type: "button", "aria-keyshortcuts": key, onclick: act }, words, el("kbd", { "aria-hidden": "true" }, key.toUpperCase()));
    return Object.assign(button, { words });
  }

  #modes() {
    const choices = MODES.map((mode) => {
      const input = el("input", { type: "radio", name: "mode", value: mode, onchange: () => this.#turn({ cacheMode: mode }) });
      return el("label", {}, input, mode);
    });
    return el("fieldset.p-modes", {}, el("legend", {}, "Cache"), ...choices);
  }

  open() {
    const { signal } = this.#closing;
    const typing = (target) => target.closest?.("input:not([type=radio]), textarea, select");
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || typing(event.target)) return;
      this.buttons[event.key.toLowerCase()]?.click();
    }, { signal });
  }

  close() {
    this.#closing.abort();
    this.#running = false;
  }

  // --- messages ------------------------------------------------------------------------------------------------------------

  /** Ada and Ben take turns. */
  async #send(door) {
    const { left, right } = this.people;
    const [from, to] = this.#line % 2 ? [right, left] : [left, right];
    const text = LINES[this.#line++ % LINES.length];
    const began = performance.now();
    await this.#try(async () => {
      await from.send(door, to.id, text);
      return `${from.name} sent by ${door === "http" ? "HTTP" : "WebSocket"}: answered in ${(performance.now() - began).toFixed(0)} ms`;
    });
  }

  async #read() {
    const { left, right } = this.people;
    await this.#try(async () => {
      const { body, cache, tookMs } = await left.read(right);
      return `${left.name} read ${body.length} messages. X-Cache: ${cache}, ${tookMs.toFixed(0)} ms`;
    });
  }

  /** The crowd writes to each other by both doors, as fast as the service takes it; its messages are in nobody's pane. */
  async #burst() {
    if (this.#running) return void (this.#running = false);
    const crowd = [this.people["crowd-1"], this.people["crowd-2"]];
    const total = Number(this.size.value);
    this.#running = true;
    say(this.buttons.b.words, "Stop burst");
    let begun = 0;
    let done = 0;
    const told = setInterval(() => say(this.last, `Burst: ${done} of ${total} answered`), 500);
    const one = async () => {
      while (this.#running && begun < total) {
        const number = begun++;
        await crowd[number % 2].send(number % 4 < 2 ? "http" : "socket", crowd[(number + 1) % 2].id, `message ${number + 1}`, () => this.#running);
        done += 1;
      }
    };
    const began = performance.now();
    await this.#try(async () => {
      await Promise.all(Array.from({ length: AT_ONCE }, one));
      return `Burst: ${done} messages answered in ${((performance.now() - began) / 1000).toFixed(1)} s`;
    });
    clearInterval(told);
    this.#running = false;
    say(this.buttons.b.words, "Burst");
  }

  // --- the picture and the service -------------------------------------------------------------------------------------------

  #pause() {
    this.paused = !this.paused;
    say(this.buttons.p.words, this.paused ? "Go on" : "Pause picture");
    this.buttons.p.setAttribute("aria-pressed", String(this.paused));
    this.#trouble("paused", this.paused && "PAUSED: the picture stands still, the service goes on");
    this.pause(this.paused);
  }

  #slow() {
    if (this.#now) this.#turn({ cacheTtl: this.#now.cacheTtl === this.#now.usualTtl ? this.#now.usualTtl * SLOWER : this.#now.usualTtl });
  }

  async #turn(asked) {
    await this.#try(async () => {
      await this.turn(asked);
      return asked.cacheMode ? `Cache: ${asked.cacheMode}` : `A cached key now lives ${seconds(this.#now.cacheTtl)}`;
    });
    if (this.#now) this.settings(this.#now);
  }

  /** The settings as the service has them; what differs from the usual is said as long as it does. */
  settings(now) {
    this.#now = now;
    const slow = now.cacheTtl !== now.usualTtl;
    say(this.buttons.l.words, slow ? "Usual speed" : "Slow class");
    this.buttons.l.setAttribute("aria-pressed", String(slow));
    this.#trouble("slow", slow && `SLOW CLASS: a key lives ${seconds(now.cacheTtl)} here, not ${seconds(now.usualTtl)}`);
    this.#trouble("mode", now.cacheMode !== now.usualMode && `CACHE ${now.cacheMode.toUpperCase()}, not ${now.usualMode}`);
    this.#trouble("fixed", !now.canTurn && "Mode and life cannot be turned from here: only on the service's own machine, where one process has the cache");
    for (const input of this.modes.querySelectorAll("input")) {
      input.checked = input.value === now.cacheMode;
      input.disabled = !now.canTurn;
    }
    this.buttons.l.disabled = !now.canTurn;
  }

  connected(connected) {
    this.#trouble("connection", !connected && "No connection to the service. Trying again…");
  }

  redis(answers) {
    this.#trouble("redis", !answers && "Redis does not answer: everything comes from MongoDB");
  }

  #trouble(what, text) {
    if (text) this.#troubles.set(what, text);
    else this.#troubles.delete(what);
    say(this.label, [...this.#troubles.values()].join(" · "));
  }

  async #try(act) {
    try {
      say(this.last, await act());
    } catch (error) {
      say(this.last, plainly(error));
    }
  }
}
