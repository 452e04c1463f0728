/* The keys that Redis has at the moment that the picture shows, and one of them in full. */

/** @import { Stage } from "./stage.js" */
/** @import { Key, Picture } from "./picture.js" */

import { el, setText } from "../chat/dom.js";
import ttlBoard from "../lab/ttl_board.js";
import { request } from "./request.js";

const MAX_ROWS = 6;
const DRAW_INTERVAL_MS = 250;

export class KeysDialog {
  #drawnAt = 0;

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
    this.state = el("p", {}, "");
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
   * Show the value and the TTL of a key, as Redis has it now.
   *
   * @param {string} key
   */
  async openKey(key) {
    if (!this.element.open) this.element.showModal();
    setText(this.name, key);
    setText(this.state, "Asking Redis…");
    setText(this.value, "");
    this.one.hidden = false;
    try {
      const { body } = await request("GET", `api/lab/keys/${encodeURIComponent(key)}`, {
        token: this.stage.key,
      });
      setText(
        this.state,
        `A ${body.type} with a TTL of ${(body.leftMs / 1000).toFixed(1)} s from now`,
      );
      setText(this.value, body.value.map(pretty).join("\n"));
    } catch (error) {
      setText(this.state, this.#reason(error));
    }
  }

  /** @param {{code: string, detail: string}} error */
  #reason({ code, detail }) {
    if (code !== "not_found") return detail || code;
    const late = Math.round(this.stage.presentation.behindMs / 1000);
    return `Redis does not have this key any more${late ? `: the picture is ${late} s behind` : ""}.`;
  }

  draw() {
    if (!this.element.open || performance.now() - this.#drawnAt < DRAW_INTERVAL_MS) return;
    this.#drawnAt = performance.now();
    const { picture } = this.stage.presentation;
    const keys = picture.isRedisUp ? [...picture.keys.values()].reverse() : [];
    const items = keys.map((key) => itemOf(key, picture.isOwn(key.key)));
    this.drawing.update({ items, empty: emptiness(picture) });
  }

  close() {
    this.drawing.close();
  }
}

/** @param {Picture} picture */
function emptiness({ isRedisUp, hasCached }) {
  if (!isRedisUp) return "Redis does not answer, so its keys are not known.";
  return hasCached ? "All keys have expired." : "No key is cached yet.";
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
