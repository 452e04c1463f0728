/* The stage: the two ways, the board of keys, the numbers, the two panes, and the controls, drawn from the story once a frame. */

import { el } from "../chat/dom.js";
import { ttlBoard } from "../lab/ttl_board.js";
import { ask } from "./ask.js";
import { Controls } from "./controls.js";
import { readDiagram, sendDiagram } from "./diagrams.js";
import { Numbers } from "./numbers.js";
import { Story } from "./story.js";
import { watch } from "./watch.js";

const ROWS = 5; // keys of messages with a row of their own
const LOOK = 250; // ms between two looks at what has ended
const ASK = 1_000; // ms between two questions for the keys; with many of them, thrice that
const MANY = 500;
const SETTLED = 1_500; // ms after which a pane has loaded and asks for the focus no more
const ASK_SOON = 150; // ms, when a window may have begun a life

export class Stage {
  #paused = null; // the time at which the picture stands still
  #closed = false;
  #lookedAt = 0;
  #askedAt = 0;
  #asking = false;

  constructor({ token }, people, ended) {
    Object.assign(this, { token, people, ended });
    this.story = new Story();
    this.numbers = new Numbers(this.story);
    this.controls = new Controls(people, {
      turn: (asked) => ask("PUT", "api/lab/settings", { token, body: asked }).then(({ body }) => this.#settings(body)),
      pause: (paused) => (this.#paused = paused ? this.story.now() : null),
    });
    const [send, read, board] = [el("section.p-send"), el("section.p-read"), el("section.p-board")];
    send.append(el("h2", {}, "Send"));
    read.append(el("h2", {}, "Read"));
    board.append(el("h2", {}, "Cache in Redis"), this.numbers.lives);
    this.diagrams = [sendDiagram(send, this.story), readDiagram(read, this.story)];
    read.append(el("p.p-counted", {}, "All numbers are counted from the flow since this page was opened."), this.numbers.beat);
    this.board = ttlBoard(board, { items: [] }, { most: ROWS, now: () => this.#paused ?? this.story.now() });
    this.element = el("div.p-stage", {}, this.controls.element, this.numbers.element, el("main.p-main", {}, send, read, board, this.#panes()));
  }

  open() {
    this.stopWatching = watch(this.token, {
      event: (event) => this.story.hear(event),
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
    for (const person of Object.values(this.people)) person.close();
  }

  #connected(connected) {
    this.controls.connected(connected);
    this.#askedAt = 0;
  }

  #settings(settings) {
    this.controls.settings(settings);
    this.element.classList.toggle("p-slow", settings.cacheTtl > settings.usualTtl);
  }

  // --- each frame --------------------------------------------------------------------------------------------------------

  #frame() {
    if (this.#closed) return;
    requestAnimationFrame(() => this.#frame());
    const now = performance.now();
    if (this.#paused === null) this.#draw(now);
    const soon = this.story.windowTouched && now - this.#askedAt > ASK_SOON;
    const pause = this.story.keys.size > MANY ? 3 * ASK : ASK;
    if (!this.#asking && (soon || now - this.#askedAt > pause)) this.#askForKeys();
  }

  #draw(now) {
    for (const diagram of this.diagrams) diagram.draw();
    if (!this.story.changed && now - this.#lookedAt < LOOK) return;
    this.story.changed = false;
    this.#lookedAt = now;
    this.board.update({ items: this.story.items() });
    this.numbers.draw();
  }

  async #askForKeys() {
    this.#asking = true;
    this.story.windowTouched = false;
    const began = this.story.now();
    try {
      const { body } = await ask("GET", "api/lab/keys", { token: this.token });
      this.story.behind = Math.min(this.story.behind, Date.now() - body.at);
      this.#settings(body.settings);
      this.controls.redis(body.keys !== null);
      if (body.keys) this.story.compare(body, began);
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
      if (error.code === "forbidden") await this.#askForSettings();
    }
    this.#askedAt = performance.now();
    this.#asking = false;
  }

  /** Elsewhere than on the service's own machine: no keys, and controls that only show. */
  async #askForSettings() {
    try {
      this.#settings((await ask("GET", "api/lab/settings", { token: this.token })).body);
    } catch {
      // asked again with the next look
    }
  }

  // --- the panes -----------------------------------------------------------------------------------------------------------

  #panes() {
    const { left, right } = this.people;
    return el("section.p-panes", { "aria-label": "Two people chat" }, this.#pane("left", left, right), this.#pane("right", right, left));
  }

  /** A pane's composer takes the focus when it opens, and would take the keys of the controls with it. */
  #keepFocus(frame) {
    let settled = Infinity;
    frame.addEventListener("load", () => (settled = performance.now() + SETTLED));
    const takeBack = () => {
      const clicked = frame.contentWindow?.navigator.userActivation?.hasBeenActive; // a slow pane may ask late, but nobody has used it yet
      if (document.activeElement !== frame || (performance.now() > settled && clicked !== false)) return;
      frame.blur();
      window.focus();
    };
    addEventListener("blur", () => setTimeout(takeBack));
  }

  #pane(pane, person, other) {
    const frame = el("iframe", { title: `The chat of ${person.name}`, src: `./?pane=${pane}#/${other.id}` });
    const fit = () => frame.contentDocument?.documentElement?.style.setProperty("font-size", getComputedStyle(document.documentElement).fontSize);
    frame.addEventListener("load", fit);
    addEventListener("resize", fit);
    this.#keepFocus(frame);
    return el("div.p-pane", {}, el("h2", {}, `${person.name}’s screen`), frame);
  }
}
