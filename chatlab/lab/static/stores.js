// One message in three places, side by side. Fields of a copy that differ from MongoDB are marked.
// The browser counts down the time that is left.

/**
 * @typedef {{id: string, places: Record<"store" | "message" | "window", Place>}} Model
 *
 * @typedef {object} Place
 * @property {string} where - its name
 * @property {string} key
 * @property {Message | null} found
 * @property {string[]} differs - the fields that differ from MongoDB
 * @property {number | null} deadlineMs
 * @property {boolean} [kept] - without an expiry
 * @property {string} trouble - why it could not be read
 *
 * @typedef {{version: number, text: string, reactions: Record<string, string[]>, deletedAt: string | null}} Message
 *
 * @typedef {object} Card - what is drawn of a place
 * @property {HTMLElement} element
 * @property {HTMLElement} word
 * @property {HTMLElement} key
 * @property {Field[]} fields
 * @property {number} longest - the longest time left so far
 * @property {HTMLElement} [fill] - of the bar; MongoDB has none
 * @property {HTMLElement} [left]
 *
 * @typedef {{field: typeof FIELDS[number], row: HTMLElement, value: HTMLElement}} Field
 */
/** @import { Options } from "./widget.js" */

import { add, animation, say } from "../../web/static/lab/parts.js";

const FIELDS = /** @type {const} */ (["version", "text", "reactions"]);

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Options} options
 */
export default function stores(root, model, { big, now, tell }) {
  const board = add(root, "section", "cl-stores cl-widget");
  board.classList.toggle("cl-big", big);
  board.setAttribute("aria-label", "One message in MongoDB and in Redis");
  const said = add(board, "p", "cl-said");
  said.setAttribute("aria-live", "polite");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  /** @type {Record<string, Card>} */
  const cards = {};
  for (const [name, place] of Object.entries(model.places))
    cards[name] = newCard(board, name, place);
  let shown = model;
  const { begin, rest, close } = animation(draw);

  /** @param {Model} changed */
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
    for (const [name, place] of Object.entries(shown.places))
      moving = countDown(cards[name], place) || moving;
    return moving;
  }

  /**
   * @param {Card} card
   * @param {Place} place
   */
  function countDown(card, place) {
    if (!card.left || !card.fill) return false;
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

/**
 * @param {Element} board
 * @param {string} name
 * @param {Place} place
 */
function newCard(board, name, place) {
  const element = add(board, "article", "cl-card");
  element.dataset.place = name;
  element.tabIndex = 0;
  const head = add(element, "header", "cl-head");
  add(head, "strong", "cl-where", place.where);
  /** @type {Card} */
  const card = {
    element,
    word: add(head, "span", "cl-verdict", ""),
    key: add(element, "p", "cl-name", ""),
    fields: [],
    longest: 0,
  };
  if (name !== "store") {
    card.fill = add(add(element, "div", "cl-track"), "div", "cl-fill");
    card.left = add(element, "p", "cl-what", "");
  } else add(element, "p", "cl-what cl-good", "for good");
  const list = add(element, "dl", "cl-fields");
  card.fields = FIELDS.map((field) => newField(list, field));
  return card;
}

/**
 * @param {Element} list
 * @param {Field["field"]} field
 */
function newField(list, field) {
  const row = add(list, "div", "cl-row");
  add(row, "dt", "", field);
  return { field, row, value: add(row, "dd", "", "") };
}

/**
 * @param {Card} card
 * @param {Place} place
 */
function show(card, place) {
  say(card.key, place.key);
  say(card.word, word(place));
  card.element.dataset.state = state(place);
  for (const { field, row, value } of card.fields) {
    row.classList.toggle("cl-other", place.differs.includes(field));
    say(value, place.found ? spelt(place.found[field]) : "");
  }
}

/** @param {Place} place */
const state = (place) =>
  place.trouble ? "trouble" : !place.found ? "away" : place.differs.length ? "stale" : "same";

/** @param {Place} place */
function word(place) {
  return {
    trouble: place.trouble,
    away: place.deadlineMs ? "not in it" : "not there",
    stale: "stale",
    same: place.found?.deletedAt ? "there, deleted" : "there",
  }[state(place)];
}

/** @param {Message[typeof FIELDS[number]]} value */
function spelt(value) {
  if (typeof value !== "object") return String(value) || "(empty)";
  return (
    Object.entries(value)
      .map(([emoji, who]) => `${emoji} ${who.join(", ")}`)
      .join("  ") || "none"
  );
}
