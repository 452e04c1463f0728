// The TTL board: one bar for each cached key, full when it is cached, empty at its deadline. It is told of changes only (a key was cached,
// Redis no longer has it, the worker told of it); what lies between two changes is drawn here, from the clock, sixty times a second.
//
// A model: {items: [{key, ttlMs, cachedMs, deadlineMs, state, endedMs, toldMs}]}, times in milliseconds since 1970 on the clock of `now`.
//   state "live"     in Redis, until deadlineMs
//         "expired"  Redis was asked at endedMs and no longer has it
//         "gone"     the worker told of it at toldMs
//         "lost"     gone at endedMs, before its deadline: deleted or evicted by somebody
//         "kept"     it has no expiry at all

export function ttlBoard(root, model, { big = false, now = Date.now } = {}) {
  const board = add(root, "section", "cl-board");
  board.classList.toggle("cl-big", big);
  board.setAttribute("aria-label", "Cached keys and the time they have left");
  const empty = add(board, "p", "cl-empty", "No key is cached yet.");
  const list = add(board, "ul", "cl-keys");
  const said = add(board, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const rows = new Map();
  let frame = 0;
  let closed = false;

  function update(changed) {
    const items = changed.items ?? [];
    empty.hidden = items.length > 0;
    for (const [key, row] of rows) if (!items.some((item) => item.key === key)) drop(key, row);
    for (const item of items) show(item);
    if (!frame && !closed) tick();
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
    if (news) said.textContent = `${item.key}: ${item.state === "live" ? `cached for ${seconds(item.ttlMs)}` : sentence(item)}`;
  }

  function newRow(item) {
    const element = add(list, "li", "cl-key");
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

  function tick() {
    frame = 0;
    let moving = false;
    for (const row of rows.values()) moving = draw(row) || moving;
    if (moving && !closed) frame = requestAnimationFrame(tick);
  }

  // True while the row moves by itself. For whoever asked for less motion it moves once a second.
  function draw(row) {
    const { item } = row;
    const left = item.state === "live" ? Math.max(0, item.deadlineMs - now()) : 0;
    const drawn = calm.matches ? Math.ceil(left / 1000) * 1000 : left;
    if (drawn !== row.shown) {
      row.shown = drawn;
      const share = item.state === "kept" ? 1 : Math.min(1, drawn / item.ttlMs);
      row.fill.style.width = `${(share * 100).toFixed(2)}%`;
      row.fill.dataset.left = share > 0.4 ? "much" : share > 0.2 ? "some" : "little";
      row.left.textContent = item.state === "live" && left > 0 ? `${(left / 1000).toFixed(calm.matches ? 0 : 1)} s left` : word(item);
      speak(row, left);
    }
    return item.state === "live" && left > 0;
  }

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
      closed = true;
      cancelAnimationFrame(frame);
      board.remove();
    },
  };
}

function word(item) {
  return { live: "deadline reached", expired: "expired", gone: "gone", lost: "lost", kept: "no expiry" }[item.state];
}

function sentence(item) {
  const since = (moment) => seconds(moment - item.cachedMs);
  const expired = () => `expired: at ${since(item.endedMs)} Redis no longer had it`;
  return {
    live: () => `in Redis for ${seconds(item.ttlMs)}`,
    expired: () => `${expired()}; the worker has not told of it yet`,
    gone: () => `${expired()} · gone: cleaned, told by the worker at ${since(item.toldMs)}`,
    lost: () => `gone at ${since(item.endedMs)}, before its deadline: somebody deleted it`,
    kept: () => "it has no expiry: it would stay for ever",
  }[item.state]();
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(2).replace(/\.?0+$/, "")} s`;
}

function add(parent, tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
