// The flow map: the boxes of the diagram. Each box lights up when a request has passed its stage, and shows the time it took.
//
// The model: {trace, door: "http" | "socket" | null, boxes: [{stage, title, note, tookMs}]}, in the order of the diagram.
// tookMs is null until the request has passed the stage. Another trace is another request, and clears the map. The first
// box shows both transports. Stages that are fractions of a millisecond apart light up LIGHT_INTERVAL_MS apart, to be seen.
// A box may also have `skipped: true` (this request does not pass the stage), `passed` (how many requests have passed it)
// and `aside` (a remark).
//
// Options: `big`; `faces`, the labels of the transports; `apart`, which draws the transports as separate boxes;
// `speak: false`, which turns off the summary for screen readers where many requests pass.

import { add, say } from "./parts.js";

const LIGHT_INTERVAL_MS = 120;
const FACES = { http: "HTTP POST", socket: "WebSocket event" };

export function flowMap(
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
  const boxes = new Map();
  const timers = new Set();
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  let trace;
  let nextLightAt = 0; // when the next box may light up

  function update(changed) {
    if (changed.trace !== trace) clear();
    trace = changed.trace;
    for (const box of changed.boxes) show(boxes.get(box.stage) ?? newBox(box), box);
    const lit = changed.boxes.filter((box) => box.tookMs !== null && !boxes.get(box.stage).lit);
    for (const box of lit) light(box, changed.door);
    if (changed.boxes.every((box) => box.tookMs !== null || box.skipped)) {
      const passed = changed.boxes.filter((box) => !box.skipped);
      const took = passed.reduce((sum, box) => sum + box.tookMs, 0);
      say(
        summary,
        `${passed.length < changed.boxes.length ? passed.length : `All ${passed.length}`} boxes passed in ${took.toFixed(1)} milliseconds.`,
      );
    }
  }

  function newBox(box) {
    const element = add(list, "li", "cl-box");
    element.tabIndex = 0;
    element.dataset.stage = box.stage;
    const shown = { element, lit: false };
    if (box.stage === "request") shown.transports = newTransports(element);
    else add(element, "strong", "cl-title", box.title);
    shown.note = add(element, "span", "cl-note", box.note);
    shown.time = add(element, "span", "cl-time", "");
    if (box.aside) add(element, "span", "cl-aside", box.aside);
    if (box.passed !== undefined) shown.passed = add(element, "span", "cl-passed", "");
    boxes.set(box.stage, shown);
    return shown;
  }

  function newTransports(element) {
    const transports = add(element, "span", "cl-doors");
    return Object.fromEntries(
      Object.entries(faces).map(([name, face]) => [
        name,
        add(transports, "strong", "cl-door", face),
      ]),
    );
  }

  // Update what does not wait until the box lights up.
  function show(shown, box) {
    say(shown.note, box.note);
    if (shown.passed)
      say(shown.passed, box.passed ? `${box.passed.toLocaleString("en")} so far` : "");
    if (box.skipped && !shown.lit && !shown.skipped) skip(shown);
  }

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

  function light(box, transport) {
    const shown = boxes.get(box.stage);
    shown.lit = true;
    const at = Math.max(performance.now(), nextLightAt);
    nextLightAt = at + (reducedMotion.matches ? 0 : LIGHT_INTERVAL_MS);
    later(() => {
      shown.element.classList.add("cl-lit");
      say(shown.time, `${box.tookMs.toFixed(box.tookMs < 100 ? 2 : 0)} ms`);
      shown.transports?.[transport]?.classList.add("cl-used");
    }, at);
  }

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

  function darken(shown) {
    shown.lit = shown.skipped = false;
    shown.element.classList.remove("cl-lit", "cl-skipped");
    say(shown.time, "");
    for (const transport of Object.values(shown.transports ?? {}))
      transport.classList.remove("cl-used");
  }

  update(model);
  return {
    update,
    /** The time, as of `performance.now()`, until which boxes are still lighting up. */
    get busyUntil() {
      return nextLightAt;
    },
    close() {
      clear();
      map.remove();
    },
  };
}
