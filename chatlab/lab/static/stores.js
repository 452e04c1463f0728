// One message in three places, side by side. Fields of a copy that differ from MongoDB are marked. The
// browser counts down the time that is left.
//
// The model: {id, places: {store, message, window}}, each {where, key, found: message | null,
// differs: [names], deadlineMs, kept, trouble}.

import { add, animation, say } from "../../web/static/lab/parts.js";

const FIELDS = { version: "version", text: "text", reactions: "reactions" };

function stores(root, model, { big, now, tell }) {
  const board = add(root, "section", "cl-stores cl-widget");
  board.classList.toggle("cl-big", big);
  board.setAttribute("aria-label", "One message in MongoDB and in Redis");
  const said = add(board, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const cards = Object.fromEntries(
    Object.entries(model.places).map(([name, place]) => [name, newCard(board, name, place)]),
  );
  let shown = model;
  const { begin, rest, close } = animation(draw);

  function update(changed) {
    shown = changed;
    for (const [name, place] of Object.entries(changed.places)) show(cards[name], place);
    say(
      said,
      Object.values(changed.places)
        .map((place) => `${place.where}: ${word(place)}`)
        .join(". "),
    );
    begin();
  }

  function draw() {
    let moving = false;
    for (const [name, card] of Object.entries(cards))
      moving = countDown(card, shown.places[name]) || moving;
    return moving;
  }

  function countDown(card, place) {
    if (!card.left) return false;
    const left = place.deadlineMs === null ? 0 : Math.max(0, place.deadlineMs - now());
    card.longest = left ? Math.max(card.longest, left) : 0;
    const drawn = calm.matches ? Math.ceil(left / 1000) * 1000 : left;
    card.fill.style.width = `${card.longest ? Math.min(100, (100 * drawn) / card.longest).toFixed(2) : 0}%`;
    say(
      card.left,
      left
        ? `${(drawn / 1000).toFixed(calm.matches ? 0 : 1)} s left`
        : place.kept
          ? "no expiry"
          : "",
    );
    return left > 0;
  }

  tell({ views: 1 });
  update(model);
  return {
    update,
    rest,
    close() {
      close();
      tell({ views: -1 });
      board.remove();
    },
  };
}

function newCard(board, name, place) {
  const element = add(board, "article", "cl-card");
  element.dataset.place = name;
  element.tabIndex = 0;
  const head = add(element, "header", "cl-head");
  add(head, "strong", "cl-where", place.where);
  const card = { element, longest: 0, word: add(head, "span", "cl-verdict", "") };
  card.key = add(element, "p", "cl-name", "");
  if (name !== "store") {
    card.fill = add(add(element, "div", "cl-track"), "div", "cl-fill");
    card.left = add(element, "p", "cl-what", "");
  } else add(element, "p", "cl-what cl-good", "for good");
  const list = add(element, "dl", "cl-fields");
  card.fields = Object.fromEntries(
    Object.entries(FIELDS).map(([field, title]) => [field, newField(list, title)]),
  );
  return card;
}

function newField(list, title) {
  const row = add(list, "div", "cl-row");
  add(row, "dt", "", title);
  return { row, value: add(row, "dd", "", "") };
}

function show(card, place) {
  say(card.key, place.key);
  say(card.word, word(place));
  card.element.dataset.state = state(place);
  for (const [field, { row, value }] of Object.entries(card.fields)) {
    row.classList.toggle("cl-other", place.differs.includes(field));
    say(value, place.found ? spelt(place.found[field]) : "");
  }
}

const state = (place) =>
  place.trouble ? "trouble" : !place.found ? "away" : place.differs.length ? "stale" : "same";

function word(place) {
  return {
    trouble: place.trouble,
    away: place.deadlineMs ? "not in it" : "not there",
    stale: "stale",
    same: place.found?.deletedAt ? "there, deleted" : "there",
  }[state(place)];
}

function spelt(value) {
  if (typeof value !== "object") return String(value) || "(empty)";
  return (
    Object.entries(value)
      .map(([emoji, who]) => `${emoji} ${who.join(", ")}`)
      .join("  ") || "none"
  );
}
