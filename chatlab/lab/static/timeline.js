// The sweeps, and the lifetime of each key between them. Time moves from right to left under a
// fixed ruler; "now" has a fixed position, and the future is to the right of it. Everything is
// drawn once, at its own time; then one transform per frame moves it.

/**
 * Times are in milliseconds since 1970.
 *
 * @typedef {object} Model
 * @property {number} shownMs - how much of the past is shown
 * @property {Sweep[]} sweeps - the sweeps
 * @property {(Lifetime | Ended)[]} lifetimes
 *
 * @typedef {{at: number, tookMs: number, live: number, cleaned: number, leaked: number}} Sweep
 * @typedef {{key: string, cachedMs: number, deadlineMs: number}} Key
 * @typedef {Key & {reportedMs: null, lagMs: null}} Lifetime
 * @typedef {Key & {reportedMs: number, lagMs: number}} Ended - the sweeper has logged its end
 */
/** @import { Options } from "./widget.js" */

import { add, animation, part, say } from "../../web/static/lab/parts.js";

const WIDE = 900;
const LEFT = 10; // x of the oldest moment
const AHEAD = 6000; // ms of the future that are shown
const TOP = 46; // y of the first lane
const LANE = 24;
const LANES = 12;
const SILENT = 3; // report a silent sweeper after this many usual intervals without a sweep

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Options} options
 */
export default function timeline(root, model, { big, now }) {
  const board = add(root, "section", "cl-timeline cl-widget");
  board.classList.toggle("cl-big", big);
  board.setAttribute(
    "aria-label",
    "The sweeps, and each key from being cached to the report of its expiry. Space pauses the picture.",
  );
  board.tabIndex = 0;
  const head = add(board, "p", "cl-last-sweep", "");
  const svg = part(board, "svg", { class: "cl-lanes", "aria-hidden": "true" });
  const said = add(board, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const clip = `cl-past-${Math.random().toString(36).slice(2)}`;
  const past = part(part(part(svg, "defs", {}), "clipPath", { id: clip }), "rect", {
    x: 0,
    y: 0,
    height: 1000,
  });
  const future = part(svg, "g", {}); // whole lifetimes, pale
  const pastFrame = part(svg, "g", { "clip-path": `url(#${clip})` });
  const present = part(pastFrame, "g", {}); // lifetimes up to now, and the sweeps
  const words = part(svg, "g", {}); // moves with them, and may cover "now"
  const ruler = part(svg, "g", { class: "cl-ruler" });

  /** @type {Map<string, number>} */
  const lanes = new Map(); // key -> lane
  const announced = new Set();
  let shown = model;
  let start = now(); // the moment that is drawn at x = 0
  let scale = 0;
  let drawnAt = 0;
  /** @type {number | null} */
  let stopped = null; // the moment at which the picture was stopped
  const { begin, rest, close } = animation(pass);

  const x = (/** @type {number} */ moment) => (moment - start) * scale;
  const y = (/** @type {Key} */ { key }) => TOP + LANE * (lanes.get(key) ?? 0);
  const nowX = () => LEFT + shown.shownMs * scale;

  /** @param {Model} changed */
  function update(changed) {
    shown = changed;
    draw();
    begin();
  }

  function draw() {
    scale = (WIDE - LEFT) / (shown.shownMs + AHEAD);
    start = now();
    share();
    const high = TOP + LANE * Math.max(3, ...[...lanes.values()].map((lane) => lane + 1));
    svg.setAttribute("viewBox", `0 0 ${WIDE} ${high + 26}`);
    future.replaceChildren(...shown.lifetimes.map((lifetime) => bar(lifetime, "cl-whole")));
    present.replaceChildren(
      ...shown.lifetimes.map((lifetime) => bar(lifetime, "cl-lived")),
      ...shown.sweeps.map((sweep) => tickOf(sweep, high)),
    );
    words.replaceChildren(...shown.lifetimes.map(wordsOf));
    drawRuler(high);
    past.setAttribute("width", `${nowX()}`);
    for (const lifetime of shown.lifetimes)
      if (lifetime.reportedMs && !announced.has(id(lifetime))) tell(lifetime);
    move();
  }

  // A key keeps its lane as long as it is shown.
  function share() {
    const keys = new Set(shown.lifetimes.map((lifetime) => lifetime.key));
    for (const key of lanes.keys()) if (!keys.has(key)) lanes.delete(key);
    const free = [...Array(LANES).keys()].filter((lane) => ![...lanes.values()].includes(lane));
    for (const key of keys) if (!lanes.has(key)) lanes.set(key, free.shift() ?? 0);
  }

  /**
   * @param {Key} lifetime
   * @param {string} name
   */
  function bar(lifetime, name) {
    const width = Math.max(1, x(lifetime.deadlineMs) - x(lifetime.cachedMs));
    return part(null, "rect", {
      class: name,
      x: x(lifetime.cachedMs),
      y: y(lifetime) + 4,
      width,
      height: LANE - 8,
      rx: 4,
    });
  }

  /** @param {Lifetime | Ended} lifetime */
  function wordsOf(lifetime) {
    const group = part(null, "g", {});
    const middle = y(lifetime) + LANE / 2;
    // a short lifetime has room only for the end of its key
    const room = x(lifetime.deadlineMs) - x(lifetime.cachedMs);
    part(group, "text", {
      class: "cl-who",
      x: x(lifetime.cachedMs) + 6,
      y: middle + 4,
    }).textContent = short(lifetime.key).replace(room < 120 ? "message:" : "", "");
    if (lifetime.reportedMs) {
      part(group, "path", {
        class: "cl-lag",
        d: `M${x(lifetime.deadlineMs)} ${middle}H${x(lifetime.reportedMs)}`,
      });
      part(group, "circle", {
        class: "cl-word-of-it",
        cx: x(lifetime.reportedMs),
        cy: middle,
        r: 5,
      });
      part(group, "text", {
        class: "cl-late",
        x: x(lifetime.reportedMs) + 9,
        y: middle + 4,
      }).textContent = `cleaned, ${Math.round(lifetime.lagMs)} ms late`;
    }
    return group;
  }

  /**
   * @param {Sweep} sweep
   * @param {number} high
   */
  function tickOf(sweep, high) {
    const group = part(null, "g", { class: sweep.cleaned ? "cl-tick cl-found" : "cl-tick" });
    part(group, "title", {}).textContent = inWords(sweep);
    part(group, "path", { d: `M${x(sweep.at)} ${TOP - 14}V${high}` });
    part(group, "circle", { cx: x(sweep.at), cy: TOP - 18, r: 4 });
    return group;
  }

  /** @param {number} high */
  function drawRuler(high) {
    ruler.replaceChildren();
    part(ruler, "path", { class: "cl-now", d: `M${nowX()} 8V${high}` });
    part(ruler, "text", { class: "cl-now-word", x: nowX() + 5, y: 18 }).textContent = "now";
    part(ruler, "text", { x: LEFT, y: 18 }).textContent = "● a sweep";
    for (let seconds = -shown.shownMs / 1000; seconds <= AHEAD / 1000; seconds += 1) {
      const place = nowX() + seconds * 1000 * scale;
      part(ruler, "path", { d: `M${place} ${high}v${seconds % 5 ? 4 : 8}` });
      if (seconds % 5 === 0 && seconds)
        part(ruler, "text", {
          x: place,
          y: high + 22,
          "text-anchor": seconds * -1000 === shown.shownMs ? "start" : "middle",
        }).textContent = `${seconds < 0 ? "−" : "+"}${Math.abs(seconds)} s`;
    }
  }

  // Update on every frame, even when no event arrives.
  function pass() {
    if (stopped === null && (!calm.matches || performance.now() - drawnAt > 1000)) move();
    return true;
  }

  function move() {
    drawnAt = performance.now();
    const moment = stopped ?? now();
    const shift = `translate(${nowX() - x(moment)} 0)`;
    future.setAttribute("transform", shift);
    present.setAttribute("transform", shift);
    words.setAttribute("transform", shift);
    say(head, headline(moment));
  }

  /** @param {number} moment */
  function headline(moment) {
    const last = shown.sweeps.at(-1);
    if (!last) return "The worker has not been heard yet.";
    const before = shown.sweeps.at(-2);
    const pause = before ? last.at - before.at : 1000;
    const silent = moment - last.at;
    if (silent > SILENT * Math.max(pause, 500))
      return `No sweep for ${Math.floor(silent / 1000)} s: the sweeper is silent.`;
    return `${stopped === null ? "" : "Stopped. "}${inWords(last)}`;
  }

  /** @param {Ended} lifetime */
  function tell(lifetime) {
    announced.add(id(lifetime));
    say(
      said,
      `${short(lifetime.key)} cleaned, ${Math.round(lifetime.lagMs)} milliseconds after its deadline.`,
    );
  }

  board.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    stopped = stopped === null ? now() : null;
    move();
  });

  update(model);
  return {
    update,
    rest,
    close() {
      close();
      board.remove();
    },
  };
}

const id = (/** @type {Key} */ lifetime) => `${lifetime.key} ${lifetime.cachedMs}`;
const short = (/** @type {string} */ key) => key.replace(/^(message:).*(.{6})$/, "$1…$2");

/** @param {Sweep} sweep */
function inWords({ live, cleaned, leaked, tookMs }) {
  return `Sweep: ${live} live, ${cleaned} cleaned${leaked ? `, ${leaked} without a deadline` : ""}, in ${tookMs.toFixed(1)} ms`;
}
