// A chart of a measurement while it runs. The kernel draws the picture, so that a saved notebook
// has the same one. The browser animates the progress bar.

/**
 * @typedef {object} Model
 * @property {string} title
 * @property {string} picture - SVG
 * @property {string[]} marks
 * @property {{done: number, of: number, beganMs: number, toldMs: number}} progress
 * @property {string} said - the result, for screen readers
 */
/** @import { Options } from "./widget.js" */

import { add, say } from "../../web/static/lab/parts.js";

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
    marks.replaceChildren(
      ...changed.marks.map((text) =>
        Object.assign(document.createElement("li"), { textContent: text }),
      ),
    );
    showProgress();
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
    if (share === 1) say(said, shown.said);
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
