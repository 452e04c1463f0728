/* The four flows: one of them large, the others small next to it. The presentation chooses which one
   is large, until somebody clicks on another one. */

/** @import { Presentation, View } from "./presentation.js" */

import { el } from "../chat/dom.js";
import { lifeScene } from "./life_scene.js";
import { readScene } from "./read_scene.js";
import { sendScene } from "./send_scene.js";
import { shortKey } from "./words.js";
import { workerScene } from "./worker_scene.js";

/** @type {Record<View, string>} */
const TITLES = { send: "Send", life: "Life of a key", worker: "Worker", read: "Read" };
export const SCENES = { send: sendScene, life: lifeScene, worker: workerScene, read: readScene };
const VIEWS = /** @type {View[]} */ (Object.keys(TITLES));
const SMALL_INTERVAL_MS = 33; // between two drawings of small flows, each ten times a second
const portrait = matchMedia("(max-aspect-ratio: 1/1)");

export class Views {
  /** @type {View | null} */
  #pinned = null;
  /** @type {Presentation["trip"]} */
  #pinnedTrip = null; // the trip in which it was pinned
  /** @type {Record<string, {svg: SVGElement, draw: (presentation: Presentation) => void}>} */
  #scenes = {};
  #closing = new AbortController();
  #drawnAt = 0; // a small one
  #turn = 0;

  /**
   * @param {Presentation} presentation
   * @param {{left: string, right: string, name: (user: string) => string}} people
   * @param {(key: string) => void} openKey
   */
  constructor(presentation, people, openKey) {
    this.openKey = openKey;
    this.presentation = presentation;
    this.people = { ...people, short: (/** @type {string} */ key) => shortKey(key, people.name) };
    this.panels = VIEWS.map((view) => {
      const title = el(
        "button.p-title",
        { type: "button", onclick: () => this.pin(view) },
        TITLES[view],
      );
      return el(
        "section.p-view",
        {
          "data-view": view,
          "aria-label": TITLES[view],
          onclick: (/** @type {MouseEvent} */ { target }) => this.#clicked(view, target),
        },
        title,
      );
    });
    this.element = el("main.p-main", {}, ...this.panels);
    this.#build();
    portrait.addEventListener("change", () => this.#build(), { signal: this.#closing.signal });
  }

  #build() {
    VIEWS.forEach((view, index) => {
      this.#scenes[view]?.svg.remove();
      this.#scenes[view] = SCENES[view](this.people, portrait.matches);
      this.panels[index].prepend(this.#scenes[view].svg);
    });
  }

  /**
   * Enlarge a small flow, or open the key that was clicked.
   *
   * @param {View} view
   * @param {EventTarget | null} target
   */
  #clicked(view, target) {
    if (view !== this.large) return this.pin(view);
    const key = target instanceof Element && target.closest("[data-key]");
    if (key) this.openKey(key.getAttribute("data-key") ?? "");
  }

  /**
   * Show this flow until the next trip begins.
   *
   * @param {View} view
   */
  pin(view) {
    this.#pinned = view;
    this.#pinnedTrip = this.presentation.trip;
  }

  get large() {
    const { trip } = this.presentation;
    if (trip && trip !== this.#pinnedTrip) this.#pinned = null;
    return this.#pinned ?? this.presentation.view;
  }

  draw() {
    const { large } = this;
    if (this.element.dataset.large !== large) {
      this.element.dataset.large = large;
      VIEWS.forEach((view, index) => {
        this.panels[index].classList.toggle("p-large", view === large);
      });
    }
    this.#scenes[large].draw(this.presentation);
    if (performance.now() - this.#drawnAt >= SMALL_INTERVAL_MS) this.#drawSmall(large);
  }

  /**
   * Draw the small flows in turn: all of them in one frame would delay it.
   *
   * @param {View} large
   */
  #drawSmall(large) {
    this.#drawnAt = performance.now();
    const small = VIEWS.filter((view) => view !== large);
    this.#turn = (this.#turn + 1) % small.length;
    this.#scenes[small[this.#turn]].draw(this.presentation);
  }

  close() {
    this.#closing.abort();
  }
}
