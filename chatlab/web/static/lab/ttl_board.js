// The TTL board: one bar for each cached key, full when it is cached, empty at its deadline. It is told of changes only (a key was cached,
// Redis no longer has it, the worker told of it); what lies between two changes is drawn here, from the clock, sixty times a second.
//
// A model: {items: [{key, ttlMs, cachedMs, deadlineMs, state, endedMs, toldMs}]}, times in milliseconds since 1970 on the clock of `now`.
//   state "live"     in Redis, until deadlineMs
//         "expired"  Redis was asked at endedMs and no longer has it
//         "gone"     the worker told of it at toldMs
//         "lost"     gone at endedMs, before its deadline: deleted or evicted by somebody
//         "kept"     it has no expiry at all

// With `most`, so many keys have a row, which keeps its place until its story has been told; each of the others is one cell of a field below,
// as high as the life it has left; an item with `always` has a row all the same, on top. So thousands of keys are as smooth as one.

import { add, animation } from "./parts.js";

export function ttlBoard(root, model, { big = false, now = Date.now, most = Infinity } = {}) {
  const board = add(root, "section", "cl-board");
  board.classList.toggle("cl-big", big);
  board.setAttribute("aria-label", "Cached keys and the time they have left");
  const empty = add(board, "p", "cl-empty", "No key is cached yet.");
  const list = add(board, "ul", "cl-keys");
  const said = add(board, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  const field = Number.isFinite(most) ? newField(board) : null;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const rows = new Map();
  let others = []; // living keys without a row
  const { begin, close } = animation(drawAll);

  function update(changed) {
    const items = changed.items ?? [];
    empty.hidden = items.length > 0;
    const known = new Map(items.map((item) => [item.key, item]));
    for (const [key, row] of rows) if (!known.has(key)) drop(key, row);
    const plain = [...rows.keys()].filter((key) => !known.get(key).always);
    for (const key of plain.splice(most)) drop(key, rows.get(key));
    let free = most - plain.length;
    for (const item of known.values()) if (rows.has(item.key) || item.always || free-- > 0) show(item);
    others = field ? items.filter((item) => item.state === "live" && !rows.has(item.key)) : [];
    begin();
  }

  function drop(key, row) {
    row.element.remove();
    rows.delete(key);
  }

  function show(item) {
    const row = rows.get(item.key) ?? newRow(item);
    const news = !row.item || row.item.state !== item.state;
    row.item = item;
    row.shown = undefined;
    row.element.dataset.state = item.state;
    row.what.textContent = sentence(item);
    if (news && !field) said.textContent = `${item.key}: ${item.state === "live" ? `cached for ${seconds(item.ttlMs)}` : sentence(item)}`;
  }

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
    const row = { element, left, track, fill: add(track, "div", "cl-fill"), what: add(element, "p", "cl-what") };
    rows.set(item.key, row);
    return row;
  }

  function drawAll() {
    let moving = false;
    for (const row of rows.values()) moving = draw(row) || moving;
    if (field) field.draw(others.map(share));
    return moving || others.length > 0;
  }

  // True while the row moves by itself. For whoever asked for less motion it moves once a second.
  function draw(row) {
    const { item } = row;
    const left = leftOf(item);
    const drawn = inSteps(left);
    if (drawn !== row.shown) {
      row.shown = drawn;
      const share = item.state === "kept" ? 1 : Math.min(1, drawn / item.ttlMs);
      row.fill.style.width = `${(share * 100).toFixed(2)}%`;
      row.fill.dataset.left = LEFT[colourOf(share)];
      row.left.textContent = item.state === "live" && left > 0 ? `${(left / 1000).toFixed(calm.matches ? 0 : 1)} s left` : word(item);
      speak(row, left);
    }
    return item.state === "live" && left > 0;
  }

  const leftOf = (item) => (item.state === "live" ? Math.max(0, item.deadlineMs - now()) : 0);
  const inSteps = (left) => (calm.matches ? Math.ceil(left / 1000) * 1000 : left);
  const share = (item) => Math.min(1, inSteps(leftOf(item)) / item.ttlMs);

  // A screen reader that stands on the bar hears whole seconds.
  function speak({ track, item }, left) {
    track.setAttribute("aria-valuemax", String(Math.round(item.ttlMs / 1000)));
    track.setAttribute("aria-valuenow", String(Math.ceil(left / 1000)));
    track.setAttribute("aria-valuetext", left > 0 ? `${Math.ceil(left / 1000)} seconds left` : sentence(item));
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

const LEFT = ["little", "some", "much"];
const COLOURS = ["--late", "--some", "--live"];
const colourOf = (share) => (share > 0.4 ? 2 : share > 0.2 ? 1 : 0);

// The field of cells: a canvas, since thousands of elements would not be smooth.
function newField(board) {
  const more = add(board, "p", "cl-more", "");
  const canvas = add(board, "canvas", "cl-field");
  canvas.setAttribute("aria-hidden", "true");
  const pen = canvas.getContext("2d");
  const size = { width: 0, height: 0 };
  new ResizeObserver(([{ contentRect }]) => Object.assign(size, { width: contentRect.width, height: contentRect.height })).observe(canvas);
  let track, colours, readAt = -Infinity;

  function readColours() {
    if (performance.now() - readAt < 1000) return;
    readAt = performance.now();
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    track = style.color;
    colours = COLOURS.map(colour);
  }

  function fit() {
    const width = Math.round(size.width * devicePixelRatio);
    const height = Math.round(size.height * devicePixelRatio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    else pen.clearRect(0, 0, width, height);
    return { width, height };
  }

  function draw(shares) {
    const text = shares.length ? `and ${shares.length.toLocaleString("en")} more` : "";
    if (more.textContent !== text) more.textContent = text;
    const { width, height } = fit();
    if (!shares.length || !width || !height) return;
    readColours();
    const cell = cellFor(shares.length, width, height);
    const gap = cell * GAP;
    const across = Math.max(1, Math.floor(width / cell));
    shares.forEach((left, place) => {
      const x = (place % across) * cell;
      const y = Math.floor(place / across) * cell * TALL;
      const tall = cell * TALL - gap;
      pen.fillStyle = track;
      pen.fillRect(x, y, cell - gap, tall);
      pen.fillStyle = colours[colourOf(left)];
      pen.fillRect(x, y + tall * (1 - left), cell - gap, tall * left);
    });
  }

  return { draw };
}

const TALL = 2; // times its width is the height of a cell
const GAP = 0.14; // of a cell is the space to the next one

// The widest cell of which so many fit.
function cellFor(count, width, height) {
  let cell = Math.min(28, Math.sqrt((width * height) / (count * TALL)));
  while (cell > 3 && Math.floor(width / cell) * Math.floor(height / (cell * TALL)) < count) cell *= 0.97;
  return cell;
}

function word(item) {
  return { live: "time is up", expired: "expired", gone: "cleaned", lost: "lost", kept: "no expiry" }[item.state];
}

function sentence(item) {
  const since = (moment) => seconds(moment - item.cachedMs);
  const expired = () => `expired: at ${since(item.endedMs)} Redis no longer had it`;
  return {
    live: () => `in Redis for ${seconds(item.ttlMs)}${item.deadlineMs - item.cachedMs > item.ttlMs + 500 ? "; its deadline was moved" : ""}`,
    expired: () => `${expired()}; the worker has not told of it yet`,
    gone: () => `${expired()} · gone: cleaned, told by the worker at ${since(item.toldMs)}`,
    lost: () => `gone at ${since(item.endedMs)}, before its deadline: somebody deleted it`,
    kept: () => "it has no expiry: it would stay for ever",
  }[item.state]();
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(2).replace(/\.?0+$/, "")} s`;
}
