// The TTL board: one bar for each cached key, full when the key is cached and empty at its
// deadline. The board receives only changes: a key was cached, Redis no longer has it, the sweeper
// logged it. In between, it draws from the clock, 60 times a second.
//
// With the option `most`, at most this many keys have a row, until their end has been shown. Each
// other key is a cell in a field below, filled by the share of its TTL that is left. An item with
// `always: true` has a row in any case, at the top. So the board draws thousands of keys as
// smoothly as one.

/**
 * Times are milliseconds since 1970 on the clock `now`.
 *
 * @typedef {{items?: Item[], empty?: string}} Model - `empty`: what to say without items
 *
 * @typedef {object} Item
 * @property {string} key
 * @property {number} ttlMs
 * @property {number} cachedMs
 * @property {number} deadlineMs
 * @property {State} state
 * @property {number} [endedMs]
 * @property {number} [reportedMs]
 * @property {boolean} [always] - it has a row in any case
 *
 * "live": in Redis until deadlineMs. "expired": a request at endedMs showed that Redis no longer
 * has
 * it. "gone": the sweeper logged it at reportedMs. "lost": gone at endedMs, before its deadline, so it
 * was
 * deleted or evicted. "kept": it has no expiry.
 * @typedef {"live" | "expired" | "gone" | "lost" | "kept"} State
 *
 * @typedef {object} Options
 * @property {boolean} [big] - for a projector
 * @property {() => number} [now]
 * @property {number} [most] - rows; all other keys are cells
 *
 * @typedef {object} Row
 * @property {Item} item
 * @property {number} [shown] - the time left that is drawn
 * @property {HTMLElement} element
 * @property {HTMLElement} left
 * @property {HTMLElement} track
 * @property {HTMLElement} fill
 * @property {HTMLElement} what
 */

import { add, animation } from "./parts.js";

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Options} options
 */
export default function ttlBoard(
  root,
  model,
  { big = false, now = Date.now, most = Infinity } = {},
) {
  const board = add(root, "section", "cl-board");
  board.classList.toggle("cl-big", big);
  board.setAttribute("aria-label", "Cached keys and the time they have left");
  const empty = add(board, "p", "cl-empty", NO_KEY_YET);
  const list = add(board, "ul", "cl-keys");
  const summary = add(board, "p", "cl-said");
  summary.setAttribute("aria-live", "polite");
  const field = Number.isFinite(most) ? newField(board) : null;
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  /** @type {Map<string, Row>} */
  const rows = new Map();
  /** @type {Item[]} */
  let others = []; // live keys without a row
  const { begin, close } = animation(drawAll);

  /** @param {Model} changed */
  function update(changed) {
    const items = changed.items ?? [];
    empty.hidden = items.length > 0;
    empty.textContent = changed.empty ?? NO_KEY_YET;
    const known = new Map(items.map((item) => [item.key, item]));
    for (const [key, row] of rows) if (!known.has(key)) remove(key, row);
    const plain = [...rows.keys()].filter((key) => !known.get(key)?.always);
    for (const key of plain.splice(most)) remove(key, rows.get(key));
    let free = most - plain.length;
    for (const item of known.values())
      if (rows.has(item.key) || item.always || free-- > 0) show(item);
    others = field ? items.filter((item) => item.state === "live" && !rows.has(item.key)) : [];
    begin();
  }

  /**
   * @param {string} key
   * @param {Row | undefined} row
   */
  function remove(key, row) {
    row?.element.remove();
    rows.delete(key);
  }

  /** @param {Item} item */
  function show(item) {
    const before = rows.get(item.key)?.item.state;
    const row = rows.get(item.key) ?? newRow(item);
    row.item = item;
    row.shown = undefined;
    row.element.dataset.state = item.state;
    row.what.textContent = sentence(item);
    if (item.state !== before && !field)
      summary.textContent = `${item.key}: ${item.state === "live" ? `cached for ${seconds(item.ttlMs)}` : sentence(item)}`;
  }

  /** @param {Item} item */
  function newRow(item) {
    const element = add(list, "li", "cl-key");
    if (item.always) list.prepend(element);
    const head = add(element, "div", "cl-head");
    add(head, "span", "cl-name", item.key);
    const left = add(head, "span", "cl-left");
    const track = add(element, "div", "cl-track");
    track.tabIndex = 0;
    track.setAttribute("role", "progressbar");
    track.setAttribute("aria-label", item.key);
    track.setAttribute("aria-valuemin", "0");
    /** @type {Row} */
    const row = {
      item,
      element,
      left,
      track,
      fill: add(track, "div", "cl-fill"),
      what: add(element, "p", "cl-what"),
    };
    rows.set(item.key, row);
    return row;
  }

  function drawAll() {
    let moving = false;
    for (const row of rows.values()) moving = draw(row) || moving;
    if (field) field.draw(others.map(share));
    return moving || others.length > 0;
  }

  /**
   * Returns whether the bar still moves. With reduced motion it moves once a second.
   *
   * @param {Row} row
   */
  function draw(row) {
    const { item } = row;
    const left = leftOf(item);
    const drawn = inSteps(left);
    if (drawn !== row.shown) {
      row.shown = drawn;
      const share = item.state === "kept" ? 1 : Math.min(1, drawn / item.ttlMs);
      row.fill.style.width = `${(share * 100).toFixed(2)}%`;
      row.fill.dataset.left = LEFT[colourOf(share)];
      row.left.textContent =
        item.state === "live" && left > 0
          ? `${(left / 1000).toFixed(reducedMotion.matches ? 0 : 1)} s left`
          : word(item);
      describe(row, left);
    }
    return item.state === "live" && left > 0;
  }

  const leftOf = (/** @type {Item} */ item) =>
    item.state === "live" ? Math.max(0, item.deadlineMs - now()) : 0;
  const inSteps = (/** @type {number} */ left) =>
    reducedMotion.matches ? Math.ceil(left / 1000) * 1000 : left;
  const share = (/** @type {Item} */ item) => Math.min(1, inSteps(leftOf(item)) / item.ttlMs);

  /**
   * Screen readers get whole seconds.
   *
   * @param {Row} row
   * @param {number} left
   */
  function describe({ track, item }, left) {
    track.setAttribute("aria-valuemax", String(Math.round(item.ttlMs / 1000)));
    track.setAttribute("aria-valuenow", String(Math.ceil(left / 1000)));
    track.setAttribute(
      "aria-valuetext",
      left > 0 ? `${Math.ceil(left / 1000)} seconds left` : sentence(item),
    );
  }

  update(model);
  return {
    update,
    close() {
      close();
      board.remove();
    },
  };
}

const NO_KEY_YET = "No key is cached yet.";
const LEFT = ["little", "some", "much"]; // the values of `data-left`
const COLOURS = ["--late", "--some", "--live"];
const colourOf = (/** @type {number} */ share) => (share > 0.4 ? 2 : share > 0.2 ? 1 : 0);

/**
 * The field of cells. It is a canvas: thousands of elements would be slow.
 *
 * @param {Element} board
 */
function newField(board) {
  const more = add(board, "p", "cl-more", "");
  const canvas = add(board, "canvas", "cl-field");
  canvas.setAttribute("aria-hidden", "true");
  const pen = canvas.getContext("2d");
  const size = { width: 0, height: 0 };
  new ResizeObserver(([{ contentRect }]) =>
    Object.assign(size, { width: contentRect.width, height: contentRect.height }),
  ).observe(canvas);
  let track = "";
  let colours = COLOURS;
  let readAt = -Infinity;

  function readColours() {
    if (performance.now() - readAt < 1000) return;
    readAt = performance.now();
    const style = getComputedStyle(canvas);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    track = style.color;
    colours = COLOURS.map(colour);
  }

  function fit() {
    const width = Math.round(size.width * devicePixelRatio);
    const height = Math.round(size.height * devicePixelRatio);
    if (canvas.width !== width || canvas.height !== height)
      Object.assign(canvas, { width, height });
    else pen?.clearRect(0, 0, width, height);
    return { width, height };
  }

  /** @param {number[]} shares */
  function draw(shares) {
    const text = shares.length ? `and ${shares.length.toLocaleString("en")} more` : "";
    if (more.textContent !== text) more.textContent = text;
    const { width, height } = fit();
    if (!pen || !shares.length || !width || !height) return;
    readColours();
    const cell = cellFor(shares.length, width, height);
    const gap = cell * GAP_RATIO;
    const across = Math.max(1, Math.floor(width / cell));
    shares.forEach((left, index) => {
      const x = (index % across) * cell;
      const y = Math.floor(index / across) * cell * HEIGHT_RATIO;
      const cellHeight = cell * HEIGHT_RATIO - gap;
      pen.fillStyle = track;
      pen.fillRect(x, y, cell - gap, cellHeight);
      pen.fillStyle = colours[colourOf(left)];
      pen.fillRect(x, y + cellHeight * (1 - left), cell - gap, cellHeight * left);
    });
  }

  return { draw };
}

const HEIGHT_RATIO = 2; // height of a cell / its width
const GAP_RATIO = 0.14; // space between two cells / width of a cell

/**
 * The width of the largest cells with which `count` of them fit into the field.
 *
 * @param {number} count
 * @param {number} width
 * @param {number} height
 */
function cellFor(count, width, height) {
  let cell = Math.min(28, Math.sqrt((width * height) / (count * HEIGHT_RATIO)));
  while (cell > 3 && Math.floor(width / cell) * Math.floor(height / (cell * HEIGHT_RATIO)) < count)
    cell *= 0.97;
  return cell;
}

/** @param {Item} item */
function word(item) {
  return {
    live: "time is up",
    expired: "expired",
    gone: "cleaned",
    lost: "lost",
    kept: "no expiry",
  }[item.state];
}

/** @param {Item} item */
function sentence(item) {
  const since = (/** @type {number | undefined} */ moment = 0) => seconds(moment - item.cachedMs);
  const expired = () => `expired: at ${since(item.endedMs)} Redis no longer had it`;
  return {
    live: () =>
      `in Redis for ${seconds(item.ttlMs)}${item.deadlineMs - item.cachedMs > item.ttlMs + 500 ? "; its deadline was moved" : ""}`,
    expired: () => `${expired()}; the sweeper has not logged it yet`,
    gone: () => `${expired()} · cleaned: the sweeper logged it at ${since(item.reportedMs)}`,
    lost: () => `gone at ${since(item.endedMs)}, before its deadline: it was deleted`,
    kept: () => "it has no expiry, so Redis never removes it",
  }[item.state]();
}

/** @param {number} ms */
function seconds(ms) {
  return `${(ms / 1000).toFixed(2).replace(/\.?0+$/, "")} s`;
}
