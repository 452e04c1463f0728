// The flow map: the boxes of a diagram, each lit because a message passed it, with the time it took.
//
// A model: {trace, door: "http" | "socket" | null, boxes: [{stage, title, note, tookMs}]}, in the diagram's order. tookMs is null until the
// box is passed; another trace is another message, and begins anew. The first box has two faces, one for each door. What really lies a
// fraction of a millisecond apart is lit PACE apart, to be seen.
// A box may also have `skipped: true` (this message's way does not lead through it), `passed`, how many have gone through it so far, and
// `aside`, a word beside it.
// Options: `big`; `faces`, the words on the doors; `apart`, which draws the doors as boxes of their own; `speak: false`, where so much passes
// that nobody wants to hear of each.

import { add, say } from "./parts.js";

const PACE = 120; // milliseconds
const FACES = { http: "HTTP POST", socket: "WebSocket event" };

export function flowMap(root, model, { big = false, faces = FACES, apart = false, speak = true, label = "The boxes a message passes" } = {}) {
  const map = add(root, "section", "cl-map");
  map.classList.toggle("cl-big", big);
  map.classList.toggle("cl-apart", apart);
  map.setAttribute("aria-label", label);
  const list = add(map, "ol", "cl-boxes");
  const said = add(map, "p", "cl-said");
  if (speak) said.setAttribute("aria-live", "polite");
  const boxes = new Map();
  const timers = new Set();
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  let trace;
  let free = 0; // when the next box may be lit

  function update(changed) {
    if (changed.trace !== trace) forget();
    trace = changed.trace;
    for (const box of changed.boxes) show(boxes.get(box.stage) ?? newBox(box), box);
    const lit = changed.boxes.filter((box) => box.tookMs !== null && !boxes.get(box.stage).lit);
    for (const box of lit) light(box, changed.door);
    if (changed.boxes.every((box) => box.tookMs !== null || box.skipped)) {
      const passed = changed.boxes.filter((box) => !box.skipped);
      const took = passed.reduce((sum, box) => sum + box.tookMs, 0);
      say(said, `${passed.length < changed.boxes.length ? passed.length : `All ${passed.length}`} boxes passed in ${took.toFixed(1)} milliseconds.`);
    }
  }

  function newBox(box) {
    const element = add(list, "li", "cl-box");
    element.tabIndex = 0;
    element.dataset.stage = box.stage;
    const shown = { element, lit: false };
    if (box.stage === "request") shown.doors = newDoors(element);
    else add(element, "strong", "cl-title", box.title);
    shown.note = add(element, "span", "cl-note", box.note);
    shown.time = add(element, "span", "cl-time", "");
    if (box.aside) add(element, "span", "cl-aside", box.aside);
    if (box.passed !== undefined) shown.passed = add(element, "span", "cl-passed", "");
    boxes.set(box.stage, shown);
    return shown;
  }

  function newDoors(element) {
    const doors = add(element, "span", "cl-doors");
    return Object.fromEntries(Object.entries(faces).map(([door, face]) => [door, add(doors, "strong", "cl-door", face)]));
  }

  // What does not wait for its turn to be lit.
  function show(shown, box) {
    say(shown.note, box.note);
    if (shown.passed) say(shown.passed, box.passed ? `${box.passed.toLocaleString("en")} so far` : "");
    if (box.skipped && !shown.lit && !shown.skipped) skip(shown);
  }

  function skip(shown) {
    shown.skipped = true;
    later(() => {
      shown.element.classList.add("cl-skipped");
      say(shown.time, "not asked");
    }, Math.max(performance.now(), free));
  }

  function light(box, door) {
    const shown = boxes.get(box.stage);
    shown.lit = true;
    const at = Math.max(performance.now(), free);
    free = at + (calm.matches ? 0 : PACE);
    later(() => {
      shown.element.classList.add("cl-lit");
      say(shown.time, `${box.tookMs.toFixed(box.tookMs < 100 ? 2 : 0)} ms`);
      shown.doors?.[door]?.classList.add("cl-used");
    }, at);
  }

  function later(act, at) {
    const timer = setTimeout(() => {
      timers.delete(timer);
      act();
    }, at - performance.now());
    timers.add(timer);
  }

  function forget() {
    for (const timer of timers) clearTimeout(timer);
    timers.clear();
    for (const shown of boxes.values()) darken(shown);
    free = 0;
    said.textContent = "";
  }

  function darken(shown) {
    shown.lit = shown.skipped = false;
    shown.element.classList.remove("cl-lit", "cl-skipped");
    say(shown.time, "");
    for (const door of Object.values(shown.doors ?? {})) door.classList.remove("cl-used");
  }

  update(model);
  return {
    update,
    /** Milliseconds of `performance.now()` until which boxes are still being lit. */
    get busyUntil() {
      return free;
    },
    close() {
      forget();
      map.remove();
    },
  };
}
