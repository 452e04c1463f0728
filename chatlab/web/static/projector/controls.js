/* The controls of the presenter, each with a key, and what everybody may do with the picture. What
   is needed less often is in the dialog “More”. */

/** @import { Speed } from "./presentation.js" */
/** @import { Stage } from "./stage.js" */

import { el, setText } from "../chat/dom.js";
import { Actions } from "./actions.js";
import { Burst } from "./burst.js";
import { Compare } from "./compare.js";
import { KeysDialog } from "./keys_dialog.js";
import { MoreDialog } from "./more.js";

/**
 * The settings of the service. `canTurn`: this page may change them.
 *
 * @typedef {object} Settings
 * @property {number} cacheTtl - seconds
 * @property {string} cacheMode
 * @property {number} usualTtl
 * @property {string} usualMode
 * @property {boolean} canTurn
 * @property {string | null} viewerKey
 * @property {{id: string, displayName: string}[]} users
 * @property {string} sweeper - "here", or which other process sweeps
 */

/** @type {[Speed, string][]} */
const SPEEDS = [
  ["real", "Real time"],
  ["slow", "¼"],
  ["step", "Step"],
];
const BEHIND_MS = 1_500; // a picture that is less behind counts as live

export class Controls {
  #closing = new AbortController();
  /** @type {Map<string, string>} */
  #notices = new Map(); // what is unusual, by topic
  /** @type {Speed} */
  #runningSpeed = "real";

  /**
   * @param {Stage} stage
   * @param {Settings} settings
   */
  constructor(stage, settings) {
    this.stage = stage;
    this.settings = settings;
    this.actions = new Actions(stage, (error) => this.setNotice("error", error));
    this.burst = new Burst(stage.players?.crowd ?? []);
    this.compare = new Compare(stage.players?.readers ?? []);
    this.keysDialog = new KeysDialog(stage);
    this.more = new MoreDialog(this);
    this.label = el("p.p-label", { role: "status" }, "");
    this.behind = el(
      "p.p-behind",
      { title: "how late the picture is, and how many requests wait" },
      "",
    );
    /** @type {Record<string, () => void>} */
    this.keys = {
      n: () => this.step(),
      a: () => this.stage.again(),
      p: () => this.pause(),
      m: () => this.more.toggle(),
      k: () => this.keysDialog.toggle(),
      l: () => this.stage.presentation.skip(),
    };
    const forPresenter = stage.players ? this.#presenterButtons() : [];
    this.speeds = this.#buildSpeeds();
    this.element = el(
      "header.p-head",
      {},
      el("h1.p-unseen", {}, "Live diagram"),
      el(
        "div.p-controls",
        { role: "toolbar", "aria-label": "Controls" },
        ...forPresenter,
        this.speeds,
        this.#button("n", "Next", "the next step"),
        this.#button("a", "Again", "show the newest story again"),
        this.#button("m", "More", "more controls"),
      ),
      this.more.element,
      this.compare.element,
      this.keysDialog.element,
    );
    this.live = this.#button("l", "Go to live", "leave out everything up to the present");
    this.status = el("div.p-status", {}, this.behind, this.live);
    this.showSettings(settings);
  }

  #presenterButtons() {
    Object.assign(this.keys, {
      h: () => this.actions.send("http"),
      s: () => this.actions.send("socket"),
      r: () => this.actions.read(),
      e: () => this.actions.react(),
      c: () => this.actions.attempt(() => this.compare.run()),
    });
    return [
      el(
        "span.p-group",
        { role: "group", "aria-label": "Send" },
        el("span.p-group-name", {}, "Send"),
        this.#button("h", "HTTP", "Send by HTTP"),
        this.#button("s", "WebSocket", "Send by WebSocket"),
      ),
      this.#button("r", "Read", "Read the conversation"),
      this.#button("e", "React", "React to the newest message"),
    ];
  }

  /**
   * @param {string} key
   * @param {string} text
   * @param {string} title
   */
  #button(key, text, title) {
    const attributes = { type: "button", title, "aria-keyshortcuts": key };
    return el(
      "button",
      { ...attributes, onclick: () => this.keys[key]() },
      el("span", {}, text),
      el("kbd", { "aria-hidden": "true" }, key.toUpperCase()),
    );
  }

  #buildSpeeds() {
    const choices = SPEEDS.map(([speed, title]) => {
      const input = el("input", {
        type: "radio",
        name: "speed",
        value: speed,
        checked: speed === "real",
        onchange: () => this.setSpeed(speed),
      });
      return el("label", {}, input, el("span", {}, title));
    });
    return el("fieldset.p-speeds", {}, el("legend", {}, "Speed"), ...choices);
  }

  open() {
    const { signal } = this.#closing;
    const typing = (/** @type {any} */ target) =>
      target.closest?.("input:not([type=radio]), textarea, select");
    const press = (/** @type {KeyboardEvent} */ event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || typing(event.target))
        return;
      const isOnButton = event.target instanceof HTMLButtonElement;
      const key = event.key === " " && !isOnButton ? "n" : event.key.toLowerCase();
      if (!this.keys[key]) return;
      event.preventDefault();
      this.keys[key]();
    };
    addEventListener("keydown", press, { signal });
  }

  close() {
    this.#closing.abort();
    this.burst.stop();
    this.compare.stop();
    this.keysDialog.close();
  }

  // --- the picture -----------------------------------------------------------------------------

  /** @param {Speed} speed */
  setSpeed(speed) {
    if (speed !== "step") this.#runningSpeed = speed;
    this.stage.presentation.setSpeed(speed);
  }

  step() {
    this.stage.presentation.step();
  }

  /** Stop the picture, or let it run on. */
  pause() {
    this.setSpeed(this.stage.presentation.speed === "step" ? this.#runningSpeed : "step");
  }

  draw() {
    const { presentation } = this.stage;
    for (const input of this.speeds.querySelectorAll("input"))
      if (input.checked !== (input.value === presentation.speed))
        input.checked = input.value === presentation.speed;
    const { behindMs, waiting } = presentation;
    this.keysDialog.draw();
    const isLate = behindMs > BEHIND_MS;
    const present = this.#notices.has("connection") ? "Not live" : "Live";
    const late = isLate ? `${Math.round(behindMs / 1000)} s behind` : present;
    const queue = waiting ? `, +${waiting}` : "";
    const { recording } = this.stage;
    setText(this.behind, recording ? "Recorded" : late + queue);
    this.live.classList.toggle("p-off", !isLate || recording !== undefined);
    this.element.classList.toggle("p-stepping", presentation.speed === "step");
  }

  // --- notices ---------------------------------------------------------------------------------

  /** @param {Settings} settings */
  showSettings(settings) {
    this.settings = settings;
    const { cacheTtl, usualTtl, cacheMode, usualMode, sweeper } = settings;
    this.setNotice("ttl", cacheTtl !== usualTtl && `The TTL is ${cacheTtl} s, not ${usualTtl} s`);
    const modes = /** @type {Record<string, string>} */ ({
      window: "on",
      drawn: "as in the document",
      off: "off",
    });
    this.setNotice("mode", cacheMode !== usualMode && `Cache: ${modes[cacheMode]}`);
    const isElsewhere =
      sweeper !== "here" && `The worker runs in ${sweeper}: its rounds are not shown`;
    this.setNotice("sweeper", this.stage.recording ? false : isElsewhere);
    this.more.showSettings(settings);
  }

  /** @param {boolean} connected */
  showConnection(connected) {
    this.setNotice("connection", !connected && "No connection to the service. Trying again…");
  }

  /** @param {boolean} isUp */
  showRedis(isUp) {
    this.setNotice("redis", !isUp && "Redis does not answer: every read goes to MongoDB");
  }

  /**
   * Show a notice on this topic, or remove it if `text` is false.
   *
   * @param {string} topic
   * @param {string | false} text
   */
  setNotice(topic, text) {
    if (text) this.#notices.set(topic, text);
    else this.#notices.delete(topic);
    setText(this.label, [...this.#notices.values()].join(" · "));
  }
}
