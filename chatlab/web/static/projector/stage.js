/* The page of a user who is logged in: the two diagrams, the board of keys, the counters, the two
   chat panes and the controls. It is drawn from the flow state, once a frame. */

/** @import { Session } from "../chat/session.js" */
/** @import { Settings } from "./flow_state.js" */
/** @import { Player, Players } from "./players.js" */

import { el } from "../chat/dom.js";
import ttlBoard from "../lab/ttl_board.js";
import { Controls } from "./controls.js";
import { Counters } from "./counters.js";
import { readDiagram, sendDiagram } from "./diagrams.js";
import { watchFlow } from "./flow_socket.js";
import { FlowState } from "./flow_state.js";
import { request } from "./request.js";

const MAX_ROWS = 5; // keys with a row of their own; windows have rows besides
// without new events, the board is redrawn only for keys that have ended
const BOARD_INTERVAL_MS = 250;
const KEYS_INTERVAL_MS = 1_000; // between two requests for the keys
const KEYS_INTERVAL_MANY_MS = 3_000; // the same, with more than MANY_KEYS keys
const KEYS_INTERVAL_WINDOW_MS = 150; // the same, if a window may have a new expiry
const MANY_KEYS = 500;
const FOCUS_TIME_MS = 1_500; // after it has loaded, a pane does not take the focus any more

export class Stage {
  /** @type {number | null} */
  #pausedAt = null; // the time that the paused page shows
  #closed = false;
  #drawnAt = 0;
  #requestedAt = 0;
  #isRequesting = false;

  /**
   * @param {Session} session
   * @param {Players} players
   * @param {() => void} ended - the service has ended the session
   */
  constructor({ token }, players, ended) {
    this.token = token;
    this.players = players;
    this.ended = ended;
    this.flow = new FlowState();
    this.counters = new Counters(this.flow);
    this.controls = new Controls(players, {
      change: (settings) =>
        request("PUT", "api/lab/settings", { token, body: settings }).then(({ body }) =>
          this.#settings(body),
        ),
      pause: (paused) => {
        this.#pausedAt = paused ? this.flow.now() : null;
      },
    });
    const [send, read, board] = [el("section.p-send"), el("section.p-read"), el("section.p-board")];
    send.append(el("h2", {}, "Send"));
    read.append(el("h2", {}, "Read"));
    board.append(el("h2", {}, "Cache in Redis"), this.counters.keyCounts);
    this.diagrams = [sendDiagram(send, this.flow), readDiagram(read, this.flow)];
    read.append(
      el("p.p-counted", {}, "All numbers count stage events since this page was opened."),
      this.counters.sweeper,
    );
    this.board = ttlBoard(
      board,
      { items: [] },
      { most: MAX_ROWS, now: () => this.#pausedAt ?? this.flow.now() },
    );
    this.element = el(
      "div.p-stage",
      {},
      this.controls.element,
      this.counters.element,
      el("main.p-main", {}, send, read, board, this.#panes()),
    );
  }

  open() {
    this.stopWatching = watchFlow(this.token, {
      event: (event) => this.flow.add(event),
      connected: () => this.#connected(true),
      lost: () => this.#connected(false),
      ended: () => this.ended(),
    });
    this.controls.open();
    this.#frame();
  }

  close() {
    this.#closed = true;
    this.stopWatching?.();
    this.controls.close();
    for (const diagram of this.diagrams) diagram.close();
    this.board.close();
    for (const player of Object.values(this.players)) player.close();
  }

  /** @param {boolean} connected */
  #connected(connected) {
    this.controls.showConnection(connected);
    this.#requestedAt = 0;
  }

  /** @param {Settings} settings */
  #settings(settings) {
    this.controls.showSettings(settings);
    this.element.classList.toggle("p-slow", settings.cacheTtl > settings.usualTtl);
  }

  // --- each frame --------------------------------------------------------------------------------

  #frame() {
    if (this.#closed) return;
    requestAnimationFrame(() => this.#frame());
    const now = performance.now();
    if (this.#pausedAt === null) this.#draw(now);
    if (!this.#isRequesting && now - this.#requestedAt > this.#keysInterval()) this.#requestKeys();
  }

  #keysInterval() {
    if (this.flow.windowWritten) return KEYS_INTERVAL_WINDOW_MS;
    return this.flow.keys.size > MANY_KEYS ? KEYS_INTERVAL_MANY_MS : KEYS_INTERVAL_MS;
  }

  /** @param {number} now */
  #draw(now) {
    for (const diagram of this.diagrams) diagram.draw();
    if (!this.flow.changed && now - this.#drawnAt < BOARD_INTERVAL_MS) return;
    this.flow.changed = false;
    this.#drawnAt = now;
    this.board.update({ items: this.flow.items() });
    this.counters.draw();
  }

  async #requestKeys() {
    this.#isRequesting = true;
    this.flow.windowWritten = false;
    const began = this.flow.now();
    try {
      const { body } = await request("GET", "api/lab/keys", { token: this.token });
      this.flow.clockOffset = Math.min(this.flow.clockOffset, Date.now() - body.at);
      this.#settings(body.settings);
      this.controls.showRedis(body.keys !== null);
      if (body.keys) this.flow.compare(body, began);
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
      if (error.code === "forbidden") await this.#requestSettings();
    }
    this.#requestedAt = performance.now();
    this.#isRequesting = false;
  }

  /**
   * From another machine the service does not list its keys, and the controls only show the
   * settings.
   */
  async #requestSettings() {
    try {
      this.#settings((await request("GET", "api/lab/settings", { token: this.token })).body);
    } catch {
      // tried again with the next request for the keys
    }
  }

  // --- the panes ---------------------------------------------------------------------------------

  #panes() {
    const { left, right } = this.players;
    return el(
      "section.p-panes",
      { "aria-label": "Two users chat" },
      this.#pane("left", left, right),
      this.#pane("right", right, left),
    );
  }

  /**
   * Return the focus to this page: the composer of a pane takes it when it opens, and then the keys
   * of the controls do nothing.
   *
   * @param {HTMLIFrameElement} frame
   */
  #keepFocus(frame) {
    let focusEndsAt = Infinity;
    frame.addEventListener("load", () => {
      focusEndsAt = performance.now() + FOCUS_TIME_MS;
    });
    const takeBack = () => {
      // a slow pane may take the focus late
      const wasUsed = frame.contentWindow?.navigator.userActivation?.hasBeenActive;
      if (
        document.activeElement !== frame ||
        (performance.now() > focusEndsAt && wasUsed !== false)
      )
        return;
      frame.blur();
      window.focus();
    };
    addEventListener("blur", () => setTimeout(takeBack));
  }

  /**
   * @param {string} pane
   * @param {Player} player
   * @param {Player} other
   */
  #pane(pane, player, other) {
    const frame = el("iframe", {
      title: `The chat of ${player.name}`,
      src: `./?pane=${pane}#/${other.id}`,
    });
    const fit = () =>
      frame.contentDocument?.documentElement?.style.setProperty(
        "font-size",
        getComputedStyle(document.documentElement).fontSize,
      );
    frame.addEventListener("load", fit);
    addEventListener("resize", fit);
    this.#keepFocus(frame);
    return el("div.p-pane", {}, el("h2", {}, `${player.name}’s screen`), frame);
  }
}
