/* The controls of the teacher: send, read, send a burst, pause the page, and change two settings of
   the service. Each button has a key. */

import { el, setText } from "../chat/dom.js";
import { describeError } from "../chat/format.js";

/** @import { Settings } from "./flow_state.js" */
/** @import { Players } from "./players.js" */

/**
 * @typedef {object} Actions
 * @property {(settings: Change) => Promise<void>} change - sends new settings to the service
 * @property {(paused: boolean) => void} pause - stops or continues the drawing
 *
 * @typedef {{cacheTtl?: number, cacheMode?: string}} Change
 */

const BURST_CONCURRENCY = 24; // messages of a burst that wait for their response
const SLOW_FACTOR = 4; // the TTL in a slow class is this many times the usual one
const MODES = ["window", "drawn", "off"];
const TEXTS = [
  "Hello!",
  "Did it arrive?",
  "Watch the boxes.",
  "And now?",
  "Five seconds…",
  "Is it still cached?",
  "It will expire soon.",
  "MongoDB keeps it.",
];
const seconds = (/** @type {number} */ number) => `${Number(number.toFixed(2))} s`;

export class Controls {
  #sent = 0; // messages sent by button
  #isBursting = false;
  #closing = new AbortController();
  /** @type {Settings | null} */
  #settings = null; // of the service
  /** @type {Map<string, string>} */
  #notices = new Map(); // what differs from the usual state, by topic

  /**
   * @param {Players} players
   * @param {Actions} actions
   */
  constructor(players, actions) {
    this.players = players;
    this.actions = actions;
    this.paused = false;
    this.last = el("p.p-last", { role: "status" }, "");
    this.label = el("p.p-label", { role: "status" }, "");
    this.size = el(
      "select",
      { "aria-label": "Messages in a burst" },
      ...[50, 500, 2000].map((size) => el("option", { selected: size === 500 }, String(size))),
    );
    /** @type {Record<string, HTMLButtonElement & {label: HTMLElement}>} by key */
    this.buttons = {
      h: this.#button("h", "Send by HTTP", () => this.#send("http")),
      s: this.#button("s", "Send by WebSocket", () => this.#send("socket")),
      r: this.#button("r", "Read", () => this.#read()),
      b: this.#button("b", "Burst", () => this.#burst()),
      p: this.#button("p", "Pause page", () => this.#pause()),
      l: this.#button("l", "Slow class", () => this.#toggleSlow()),
    };
    const { h, s, r, b, p, l } = this.buttons;
    this.modes = this.#buildModes();
    this.element = el(
      "header.p-head",
      {},
      el("h1", {}, "Live diagram"),
      el(
        "div.p-controls",
        { role: "toolbar", "aria-label": "Controls" },
        h,
        s,
        r,
        el("span.p-pair", {}, b, this.size),
        p,
        l,
      ),
      el("div.p-says", {}, this.modes, this.label, this.last),
    );
  }

  /**
   * @param {string} key
   * @param {string} text
   * @param {() => void} act
   */
  #button(key, text, act) {
    const label = el("span", {}, text);
    const button = el(
      "button",
      { type: "button", "aria-keyshortcuts": key, onclick: act },
      label,
      el("kbd", { "aria-hidden": "true" }, key.toUpperCase()),
    );
    return Object.assign(button, { label });
  }

  #buildModes() {
    const choices = MODES.map((mode) => {
      const input = el("input", {
        type: "radio",
        name: "mode",
        value: mode,
        onchange: () => this.#change({ cacheMode: mode }),
      });
      return el("label", {}, input, mode);
    });
    return el("fieldset.p-modes", {}, el("legend", {}, "Cache"), ...choices);
  }

  open() {
    const { signal } = this.#closing;
    const typing = (/** @type {any} */ target) =>
      target.closest?.("input:not([type=radio]), textarea, select");
    addEventListener(
      "keydown",
      (event) => {
        if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || typing(event.target))
          return;
        this.buttons[event.key.toLowerCase()]?.click();
      },
      { signal },
    );
  }

  close() {
    this.#closing.abort();
    this.#isBursting = false;
  }

  // --- messages ----------------------------------------------------------------------------------

  /**
   * Send a message. Ada and Ben take turns.
   *
   * @param {"http" | "socket"} transport
   */
  async #send(transport) {
    const { left, right } = this.players;
    const [from, to] = this.#sent % 2 ? [right, left] : [left, right];
    const text = TEXTS[this.#sent++ % TEXTS.length];
    const began = performance.now();
    await this.#try(async () => {
      await from.send(transport, to.id, text);
      return `${from.name} sent over ${transport === "http" ? "HTTP" : "WebSocket"}: answered in ${(performance.now() - began).toFixed(0)} ms`;
    });
  }

  async #read() {
    const { left, right } = this.players;
    await this.#try(async () => {
      const { body, cache, tookMs } = await left.read(right);
      return `${left.name} read ${body.length} messages. X-Cache: ${cache}, ${tookMs.toFixed(0)} ms`;
    });
  }

  /**
   * Let two users who are in no pane send each other messages over both transports, as fast as the
   * service answers.
   */
  async #burst() {
    if (this.#isBursting) {
      this.#isBursting = false; // a second press ends it
      return;
    }
    const crowd = [this.players["crowd-1"], this.players["crowd-2"]];
    const total = Number(this.size.value);
    this.#isBursting = true;
    setText(this.buttons.b.label, "Stop burst");
    let started = 0;
    let done = 0;
    const progress = setInterval(
      () => setText(this.last, `Burst: ${done} of ${total} answered`),
      500,
    );
    const sender = async () => {
      while (this.#isBursting && started < total) {
        const number = started++;
        const transport = number % 4 < 2 ? "http" : "socket";
        await crowd[number % 2].send(
          transport,
          crowd[(number + 1) % 2].id,
          `message ${number + 1}`,
          () => this.#isBursting,
        );
        done += 1;
      }
    };
    const began = performance.now();
    await this.#try(async () => {
      await Promise.all(Array.from({ length: BURST_CONCURRENCY }, sender));
      return `Burst: ${done} messages answered in ${((performance.now() - began) / 1000).toFixed(1)} s`;
    });
    clearInterval(progress);
    this.#isBursting = false;
    setText(this.buttons.b.label, "Burst");
  }

  // --- the page and the settings -----------------------------------------------------------------

  #pause() {
    this.paused = !this.paused;
    setText(this.buttons.p.label, this.paused ? "Resume page" : "Pause page");
    this.buttons.p.setAttribute("aria-pressed", String(this.paused));
    this.#setNotice(
      "paused",
      this.paused && "PAUSED: this page does not update, the service keeps running",
    );
    this.actions.pause(this.paused);
  }

  #toggleSlow() {
    if (!this.#settings) return;
    const { cacheTtl, usualTtl } = this.#settings;
    this.#change({ cacheTtl: cacheTtl === usualTtl ? usualTtl * SLOW_FACTOR : usualTtl });
  }

  /** @param {Change} settings */
  async #change(settings) {
    await this.#try(async () => {
      await this.actions.change(settings);
      return settings.cacheMode
        ? `Cache: ${settings.cacheMode}`
        : `The TTL is now ${seconds(this.#settings?.cacheTtl ?? 0)}`;
    });
    if (this.#settings) this.showSettings(this.#settings);
  }

  /**
   * Show the settings of the service. What differs from its start is shown as long as it differs.
   *
   * @param {Settings} settings
   */
  showSettings(settings) {
    this.#settings = settings;
    const { cacheTtl, usualTtl, cacheMode, usualMode, canTurn } = settings;
    const slow = cacheTtl !== usualTtl;
    setText(this.buttons.l.label, slow ? "Usual speed" : "Slow class");
    this.buttons.l.setAttribute("aria-pressed", String(slow));
    this.#setNotice(
      "slow",
      slow && `SLOW CLASS: the TTL is ${seconds(cacheTtl)}, not ${seconds(usualTtl)}`,
    );
    this.#setNotice(
      "mode",
      cacheMode !== usualMode && `CACHE ${cacheMode.toUpperCase()}, not ${usualMode}`,
    );
    this.#setNotice(
      "fixed",
      !canTurn &&
        "The cache mode and the TTL can be changed only on the service's own machine, and only if no other process uses the cache",
    );
    for (const input of this.modes.querySelectorAll("input")) {
      input.checked = input.value === cacheMode;
      input.disabled = !canTurn;
    }
    this.buttons.l.disabled = !canTurn;
  }

  /** @param {boolean} connected */
  showConnection(connected) {
    this.#setNotice("connection", !connected && "No connection to the service. Trying again…");
  }

  /** @param {boolean} isUp */
  showRedis(isUp) {
    this.#setNotice("redis", !isUp && "Redis does not answer: every read goes to MongoDB");
  }

  /**
   * Show a notice on this topic, or remove it if `text` is false.
   *
   * @param {string} topic
   * @param {string | false} text
   */
  #setNotice(topic, text) {
    if (text) this.#notices.set(topic, text);
    else this.#notices.delete(topic);
    setText(this.label, [...this.#notices.values()].join(" · "));
  }

  /**
   * Run an action and show the text it returns, or its error.
   *
   * @param {() => Promise<string>} action
   */
  async #try(action) {
    try {
      setText(this.last, await action());
    } catch (error) {
      setText(this.last, describeError(error));
    }
  }
}
