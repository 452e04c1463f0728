// A chart of a measurement: a sketch while it runs, then the picture of the saved notebook, which
// takes the kernel longer to draw. The browser animates the progress bar.

/**
 * @typedef {object} Side - one that has points is a line, the others are strips
 * @property {[number, number][]} [points]
 * @property {number[]} dots
 * @property {number} median
 * @property {number | null} p95
 *
 * @typedef {object} Data
 * @property {Side[]} sides
 * @property {string} unit
 * @property {boolean} log
 * @property {string} x - label of the x axis of lines
 *
 * @typedef {object} Own
 * @property {string} title
 * @property {string[]} words - the result of each side
 * @property {string} picture - HTML of the finished chart
 * @property {string[]} marks
 * @property {{done: number, of: number, beganMs: number, toldMs: number}} progress
 *
 * @typedef {Own & Data} Model
 */
/** @import { Options } from "./widget.js" */

import { add, part, say } from "../../web/static/lab/parts.js";

const [LEFT, RIGHT, STRIP, PLOT] = [10, 710, 60, 260];
const SCATTER = 0.618034; // from the number of a dot to a height that looks random

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Options} options
 */
export default function chart(root, model, { big, now }) {
  const board = add(root, "section", "cl-chart cl-widget");
  board.classList.toggle("cl-big", big);
  board.tabIndex = 0;
  board.setAttribute("aria-label", model.title);
  const picture = add(board, "div", "cl-picture");
  const track = add(board, "div", "cl-track");
  const fill = add(track, "div", "cl-fill");
  track.setAttribute("role", "progressbar");
  track.setAttribute("aria-label", `Progress of ${model.title}`);
  const left = add(board, "p", "cl-what", "");
  const marks = add(board, "ul", "cl-marks");
  const said = add(board, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  let timer = 0;
  let stopped = false;
  let shown = model;

  /** @param {Model} changed */
  function update(changed) {
    shown = changed;
    picture.innerHTML = changed.picture; // safe: made by the kernel, which escapes all text in it
    if (!changed.picture) draw(changed);
    marks.replaceChildren(
      ...changed.marks.map((text) =>
        Object.assign(document.createElement("li"), { textContent: text }),
      ),
    );
    showProgress();
  }

  /** @param {Model} changed */
  function draw({ title, words, ...data }) {
    add(picture, "strong", "", title);
    words.forEach((text, number) => {
      add(picture, "div", `side-${number % 5}`, `● ${text}`);
    });
    sketch(picture, data);
  }

  function showProgress() {
    const { done, of, beganMs, toldMs } = shown.progress;
    track.hidden = left.hidden = !of;
    if (!of) return;
    const share = Math.min(1, done / of);
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    track.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    const whole = share ? (toldMs - beganMs) / share : 0;
    const rest = (beganMs + whole - now()) / 1000;
    say(
      left,
      share === 1
        ? `${of.toLocaleString("en")} of ${of.toLocaleString("en")}, done`
        : `${done.toLocaleString("en")} of ${of.toLocaleString("en")}${rest > 0 ? `, about ${rest < 10 ? rest.toFixed(1) : rest.toFixed(0)} s left` : ""}`,
    );
    if (share === 1) say(said, shown.words.join("; "));
    clearTimeout(timer);
    if (share < 1 && !stopped) timer = setTimeout(showProgress, 250);
  }

  update(model);
  return {
    update,
    rest() {
      stopped = true;
      clearTimeout(timer);
    },
    close() {
      stopped = true;
      clearTimeout(timer);
      board.remove();
    },
  };
}

/**
 * Draw the dots and lines, and the ends of the axes.
 * @param {HTMLElement} root
 * @param {Data} data
 */
function sketch(root, { sides, unit, log, x }) {
  if (!sides.length) return;
  const lines = Boolean(sides[0].points);
  /** @type {[number, number][][]} - each side's points, or its dots with a height */
  const series = sides.map(
    ({ points, dots }, row) =>
      points ?? dots.map((value, place) => [value, row + ((place * SCATTER) % 1) / 2]),
  );
  const bottom = lines ? PLOT : STRIP * sides.length;
  const [xs, ys] = [0, 1].map((place) => series.flat().map((point) => point[place]));
  const across = scale(xs, LEFT, RIGHT, log);
  const up = lines
    ? scale(log ? ys : [0, ...ys], bottom, 20, log)
    : (/** @type {number} */ row) => 20 + STRIP * row;
  const svg = part(root, "svg", { viewBox: `0 0 720 ${bottom + 24}` });
  sides.forEach(({ median, p95 }, number) => {
    const group = part(svg, "g", { class: `side-${number % 5}` });
    const places = series[number].map(([place, value]) => [across(place), up(value)]);
    for (const [cx, cy] of places) part(group, "circle", { cx, cy, r: lines ? 3.5 : 2.5 });
    if (lines) part(group, "polyline", { points: places.join(" ") });
    else {
      part(group, "path", { d: `M${across(median)} ${up(number) - 4}v38` });
      if (p95 !== null)
        part(group, "path", {
          d: `M${across(p95)} ${up(number) - 4}v38`,
          "stroke-dasharray": "4 2",
        });
    }
  });
  const [least, most] = [Math.min(...xs), Math.max(...xs)];
  write(svg, LEFT, bottom + 20, figure(least));
  write(svg, (LEFT + RIGHT) / 2, bottom + 20, lines ? x : unit, "middle");
  write(svg, RIGHT, bottom + 20, figure(most), "end");
  if (lines) write(svg, LEFT, 14, `up to ${figure(Math.max(...ys))} ${unit}`);
}

/**
 * Return the function from a value to its place between `from` and `to`. Only values above zero
 * have a logarithm.
 * @param {number[]} values
 * @param {number} from
 * @param {number} to
 * @param {boolean} log
 */
function scale(values, from, to, log) {
  const curve = log && Math.min(...values) > 0 ? Math.log : Number;
  const [low, high] = [curve(Math.min(...values)), curve(Math.max(...values))];
  return (/** @type {number} */ value) =>
    from + ((to - from) * (curve(value) - low)) / (high - low || 1);
}

/** @param {number} value */
function figure(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

/**
 * @param {Element} parent
 * @param {number} x
 * @param {number} y
 * @param {string} text
 */
function write(parent, x, y, text, anchor = "start") {
  part(parent, "text", { x, y, "text-anchor": anchor }).textContent = text;
}
