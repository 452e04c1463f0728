// The flow map: the boxes of the send diagram, each lit because a message passed it, with the time it took.
//
// A model: {trace, door: "http" | "socket" | null, boxes: [{stage, title, note, tookMs}]}, in the diagram's order. tookMs is null until the
// box is passed; another trace is another message, and begins anew. The first box has two faces, one for each door. What really lies a
// fraction of a millisecond apart is lit PACE apart, to be seen.

const PACE = 120; // milliseconds

export function flowMap(root, model, { big = false } = {}) {
  const map = add(root, "section", "cl-map");
  map.classList.toggle("cl-big", big);
  map.setAttribute("aria-label", "The boxes a message passes");
  const list = add(map, "ol", "cl-boxes");
  const said = add(map, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  const boxes = new Map();
  const timers = new Set();
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  let trace;
  let free = 0; // when the next box may be lit

  function update(changed) {
    if (changed.trace !== trace) forget();
    trace = changed.trace;
    for (const box of changed.boxes) (boxes.get(box.stage) ?? newBox(box)).box = box;
    const lit = changed.boxes.filter((box) => box.tookMs !== null && !boxes.get(box.stage).lit);
    for (const box of lit) light(box, changed.door);
    if (changed.boxes.every((box) => box.tookMs !== null)) {
      const took = changed.boxes.reduce((sum, box) => sum + box.tookMs, 0);
      said.textContent = `All ${changed.boxes.length} boxes passed in ${took.toFixed(1)} milliseconds.`;
    }
  }

  function newBox(box) {
    const element = add(list, "li", "cl-box");
    element.tabIndex = 0;
    const shown = { element, lit: false };
    if (box.stage === "request") shown.doors = newDoors(element);
    else add(element, "strong", "cl-title", box.title);
    add(element, "span", "cl-note", box.note);
    shown.time = add(element, "span", "cl-time", "");
    boxes.set(box.stage, shown);
    return shown;
  }

  function newDoors(element) {
    const doors = add(element, "span", "cl-doors");
    return { http: add(doors, "strong", "cl-door", "HTTP POST"), socket: add(doors, "strong", "cl-door", "WebSocket event") };
  }

  function light(box, door) {
    const shown = boxes.get(box.stage);
    shown.lit = true;
    const at = Math.max(performance.now(), free);
    free = at + (calm.matches ? 0 : PACE);
    const timer = setTimeout(() => {
      timers.delete(timer);
      shown.element.classList.add("cl-lit");
      shown.time.textContent = `${box.tookMs.toFixed(2)} ms`;
      if (shown.doors && door) shown.doors[door].classList.add("cl-used");
    }, at - performance.now());
    timers.add(timer);
  }

  function forget() {
    for (const timer of timers) clearTimeout(timer);
    timers.clear();
    boxes.clear();
    list.replaceChildren();
    free = 0;
    said.textContent = "";
  }

  update(model);
  return {
    update,
    close() {
      forget();
      map.remove();
    },
  };
}

function add(parent, tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
