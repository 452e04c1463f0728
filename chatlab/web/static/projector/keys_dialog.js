/* The keys that Redis has at the moment that the picture shows, and one of them in full. */

/** @import { Stage } from "./stage.js" */
/** @import { Key } from "./picture.js" */
/** @import { Presentation } from "./presentation.js" */
/** @import { Value } from "./tape.js" */

import { el, setText } from "../chat/dom.js";
import ttlBoard from "../lab/ttl_board.js";
import { stateOf } from "./life_scene.js";

const MAX_ROWS = 6;
const DRAW_INTERVAL_MS = 250;

export class KeysDialog {
  #drawnAt = 0;
  #key = ""; // the one that is open
  #problem = ""; // why its value is not known
  /** @type {Value | null} */
  #value = null;

  /** @param {Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.board = el("div.p-board", {});
    this.drawing = ttlBoard(
      this.board,
      { items: [] },
      { most: MAX_ROWS, now: () => stage.presentation.at ?? 0 },
    );
    this.name = el("h3.p-key-name", {}, "");
    this.state = el("p.p-key-state", {}, "");
    this.value = el("pre.p-value", {}, "");
    this.one = el("section", { hidden: true }, this.name, this.state, this.value);
    const open = (/** @type {MouseEvent} */ { target }) => {
      const row = target instanceof Element && target.closest(".cl-key");
      const key = row ? row.querySelector(".cl-name")?.textContent : null;
      if (key) this.openKey(key);
    };
    this.board.addEventListener("click", open);
    this.element = el(
      "dialog.p-more.p-keys",
      { "aria-label": "Keys in Redis" },
      el("form", { method: "dialog" }, el("button.p-close", { "aria-label": "Close" }, "×")),
      el("h2", {}, "Keys in Redis"),
      this.board,
      this.one,
    );
  }

  toggle() {
    if (this.element.open) return this.element.close();
    this.one.hidden = true;
    this.element.showModal();
  }

  /**
   * Show the value and the TTL of a key. If the tape does not have the value, ask Redis.
   *
   * @param {string} key
   */
  async openKey(key) {
    if (!this.element.open) this.element.showModal();
    this.#key = key;
    this.#problem = "";
    this.one.hidden = false;
    this.#drawKey();
    if (this.#value) return;
    const problem = await this.#askFor(key);
    if (this.#key === key) this.#problem = problem;
    this.#drawKey();
  }

  /**
   * Ask Redis for the value. Return what to say if it does not have it.
   *
   * @param {string} key
   */
  async #askFor(key) {
    if (!this.stage.players) return "Its value is not shown here.";
    try {
      await this.stage.keepValues(new Map([[key, this.stage.presentation.at ?? 0]]));
      return "Its value is not known: Redis does not have this key any more.";
    } catch (error) {
      return error.detail || error.code;
    }
  }

  /** The open key, at the moment that the picture shows. */
  #drawKey() {
    this.#value = this.stage.presentation.knownValueOf(this.#key);
    setText(this.name, this.#key);
    setText(this.value, this.#value?.value.map(pretty).join("\n") ?? this.#problem);
    this.#drawState();
  }

  #drawState() {
    const { at, picture, isRedisUp } = this.stage.presentation;
    const key = picture.keys.get(this.#key);
    const leftMs = key?.state === "live" ? Math.max(0, key.deadline - (at ?? 0)) : 0;
    const known = key ? stateOf(key, leftMs) : "not in Redis";
    const state = isRedisUp ? known : "no answer from Redis";
    setText(this.state, this.#value ? `A ${this.#value.type}: ${state}` : state);
  }

  draw() {
    if (!this.element.open) return;
    if (!this.one.hidden) this.#drawState();
    if (performance.now() - this.#drawnAt < DRAW_INTERVAL_MS) return;
    this.#drawnAt = performance.now();
    const { picture, isRedisUp } = this.stage.presentation;
    const keys = isRedisUp ? [...picture.keys.values()].reverse() : [];
    const items = keys.map((key) => itemOf(key, picture.isOwn(key.key)));
    this.drawing.update({ items, empty: emptiness(this.stage.presentation) });
    if (!this.one.hidden) this.#drawKey();
  }

  close() {
    this.drawing.close();
  }
}

/** @param {Presentation} presentation */
function emptiness({ isRedisUp, picture }) {
  if (!isRedisUp) return "There is no answer from Redis, so its keys are not known.";
  return picture.hasCached ? "All keys have expired." : "No key is cached yet.";
}

/**
 * A key as the board knows it.
 *
 * @param {Key} key
 * @param {boolean} always
 */
function itemOf({ key, bornAt, deadline, ttlMs, state, endedAt }, always) {
  return {
    key,
    ttlMs,
    state,
    always,
    cachedMs: bornAt,
    deadlineMs: deadline,
    endedMs: endedAt === undefined ? undefined : Math.min(endedAt, deadline),
    reportedMs: endedAt,
  };
}

/** @param {string} line */
function pretty(line) {
  try {
    return JSON.stringify(JSON.parse(line), null, 2);
  } catch {
    return line; // the header of a window
  }
}
