// The flow map: the boxes of the diagram. Each box lights up when a request has passed its stage,
// and shows the time it took. The first box shows both transports. Stages that are fractions of a
// millisecond apart light up LIGHT_INTERVAL_MS apart, to be seen.

/**
 * @typedef {object} Model
 * @property {string | null} trace - another trace is another request, and clears the map
 * @property {"http" | "socket" | null} door - its transport
 * @property {Box[]} boxes - in the order of the diagram
 *
 * @typedef {object} Box
 * @property {string} stage
 * @property {string} title
 * @property {string} note
 * @property {number | null} tookMs - null until the request has passed the stage
 * @property {boolean} [skipped] - this request does not pass the stage
 * @property {string} [aside] - a remark
 *
 * @typedef {object} Options
 * @property {boolean} [big] - for a projector
 * @property {Record<string, string>} [faces] - the labels of the transports
 * @property {boolean} [apart] - draw the transports as separate boxes
 * @property {boolean} [speak] - false, where many requests pass: no summary for screen readers
 * @property {string} [label]
 *
 * @typedef {object} Shown - what is drawn of a box
 * @property {HTMLElement} element
 * @property {HTMLElement} note
 * @property {HTMLElement} time
 * @property {Record<string, HTMLElement>} transports - of the first box
 * @property {boolean} lit
 * @property {boolean} skipped
 */

import { add, say } from "./parts.js";

const LIGHT_INTERVAL_MS = 120;
const FACES = { http: "HTTP POST", socket: "WebSocket event" };

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Options} options
 */
export default function flowMap(
  root,
  model,
  {
    big = false,
    faces = FACES,
    apart = false,
    speak = true,
    label = "The boxes a message passes",
  } = {},
) {
  const map = add(root, "section", "cl-map");
  map.classList.toggle("cl-big", big);
  map.classList.toggle("cl-apart", apart);
  map.setAttribute("aria-label", label);
  const list = add(map, "ol", "cl-boxes");
  const summary = add(map, "p", "cl-said");
  if (speak) summary.setAttribute("aria-live", "polite");
  /** @type {Map<string, Shown>} */
  const boxes = new Map();
  /** @type {Set<number>} */
  const timers = new Set();
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  let { trace } = model;
  let nextLightAt = 0; // when the next box may light up

  /** @param {Model} changed */
  function update(changed) {
    if (changed.trace !== trace) clear();
    trace = changed.trace;
    for (const box of changed.boxes) show(boxes.get(box.stage) ?? newBox(box), box);
    for (const box of changed.boxes) light(box, changed.door);
    if (changed.boxes.every((box) => box.tookMs !== null || box.skipped)) {
      const passed = changed.boxes.filter((box) => !box.skipped);
      const took = passed.reduce((sum, box) => sum + (box.tookMs ?? 0), 0);
      say(
        summary,
        `${passed.length < changed.boxes.length ? passed.length : `All ${passed.length}`} boxes passed in ${took.toFixed(1)} milliseconds.`,
      );
    }
  }

  /** @param {Box} box */
  function newBox(box) {
    const element = add(list, "li", "cl-box");
    element.tabIndex = 0;
    element.dataset.stage = box.stage;
    const transports = box.stage === "request" ? newTransports(element) : {};
    if (box.stage !== "request") add(element, "strong", "cl-title", box.title);
    const note = add(element, "span", "cl-note", box.note);
    const time = add(element, "span", "cl-time", "");
    if (box.aside) add(element, "span", "cl-aside", box.aside);
    /** @type {Shown} */
    const shown = { element, transports, note, time, lit: false, skipped: false };
    boxes.set(box.stage, shown);
    return shown;
  }

  /** @param {Element} element */
  function newTransports(element) {
    const transports = add(element, "span", "cl-doors");
    return Object.fromEntries(
      Object.entries(faces).map(([name, face]) => [
        name,
        add(transports, "strong", "cl-door", face),
      ]),
    );
  }

  /**
   * Update what does not wait until the box lights up.
   *
   * @param {Shown} shown
   * @param {Box} box
   */
  function show(shown, box) {
    say(shown.note, box.note);
    if (box.skipped && !shown.lit && !shown.skipped) skip(shown);
  }

  /** @param {Shown} shown */
  function skip(shown) {
    shown.skipped = true;
    later(
      () => {
        shown.element.classList.add("cl-skipped");
        say(shown.time, "not asked");
      },
      Math.max(performance.now(), nextLightAt),
    );
  }

  /**
   * @param {Box} box
   * @param {Model["door"]} transport
   */
  function light(box, transport) {
    const { tookMs } = box;
    const shown = boxes.get(box.stage);
    if (tookMs === null || !shown || shown.lit) return;
    shown.lit = true;
    const at = Math.max(performance.now(), nextLightAt);
    nextLightAt = at + (reducedMotion.matches ? 0 : LIGHT_INTERVAL_MS);
    later(() => {
      shown.element.classList.add("cl-lit");
      say(shown.time, `${tookMs.toFixed(tookMs < 100 ? 2 : 0)} ms`);
      if (transport) shown.transports[transport]?.classList.add("cl-used");
    }, at);
  }

  /**
   * @param {() => void} act
   * @param {number} at
   */
  function later(act, at) {
    const timer = setTimeout(() => {
      timers.delete(timer);
      act();
    }, at - performance.now());
    timers.add(timer);
  }

  function clear() {
    for (const timer of timers) clearTimeout(timer);
    timers.clear();
    for (const shown of boxes.values()) darken(shown);
    nextLightAt = 0;
    summary.textContent = "";
  }

  /** @param {Shown} shown */
  function darken(shown) {
    shown.lit = shown.skipped = false;
    shown.element.classList.remove("cl-lit", "cl-skipped");
    say(shown.time, "");
    for (const transport of Object.values(shown.transports)) transport.classList.remove("cl-used");
  }

  update(model);
  return {
    map,
    update,
    close() {
      clear();
      map.remove();
    },
  };
}
