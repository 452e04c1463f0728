/* Search in the open conversation: the field, and the list of what was found, newest first. */

/** @import { Contacts } from "./contacts.js" */
/** @import { Conversation, Message } from "./conversation.js" */

import { el, iconButton, setText } from "./dom.js";
import { describeError, formatBriefTime, formatFullTime } from "./format.js";
import { nameOf } from "./names.js";

const PAGE_SIZE = 20;
const DELAY_MS = 250; // after the last key, before the service is asked
const BEFORE_MATCH = 40; // characters of the text shown before what was found
const SHOWN = 160; // characters of the text

export class SearchPanel {
  #query = ""; // whose results are shown, or requested
  /** @type {Message[]} */
  #found = [];
  /** @type {number | undefined} */
  #timer;

  field = el("input", {
    type: "search",
    placeholder: "Search in this conversation",
    "aria-label": "Search in this conversation",
    autocomplete: "off",
    maxlength: "100",
    oninput: () => this.#changed(),
  });
  status = el("p.hint", { role: "status" });
  list = el("ol.found", { role: "list", "aria-label": "Messages found" });
  more = el(
    "button.link",
    { type: "button", hidden: true, onclick: () => this.#search() },
    "Show older ones",
  );
  button = iconButton("search", "Search in this conversation", () => this.toggle(), {
    "aria-expanded": "false",
  });

  /**
   * @param {Conversation} conversation
   * @param {Contacts} contacts
   * @param {{show: (seq: number) => Promise<void>, closed: () => void}} actions
   */
  constructor(conversation, contacts, actions) {
    this.conversation = conversation;
    this.contacts = contacts;
    this.actions = actions;
    this.element = el(
      "search.search",
      { hidden: true, onkeydown: (event) => this.#key(event) },
      el(
        "div.line",
        {},
        this.field,
        iconButton("close", "Close the search", () => this.hide()),
      ),
      this.status,
      this.list,
      this.more,
    );
  }

  toggle() {
    if (this.element.hidden) this.open();
    else this.hide();
  }

  open() {
    this.#setHidden(false);
    this.field.focus();
    this.field.select();
  }

  hide() {
    this.#setHidden(true);
    this.actions.closed();
  }

  /** @param {boolean} hidden */
  #setHidden(hidden) {
    this.element.hidden = hidden;
    this.button.setAttribute("aria-expanded", String(!hidden));
  }

  close() {
    clearTimeout(this.#timer);
    this.#query = "";
  }

  #changed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#begin(), DELAY_MS);
  }

  /** Search for what is in the field. */
  async #begin() {
    clearTimeout(this.#timer);
    const query = this.field.value.trim();
    if (query === this.#query) return;
    this.#query = query;
    this.#found = [];
    await this.#search();
  }

  /** Read the first page of results, or the next one. */
  async #search() {
    const query = this.#query;
    const oldest = this.#found.at(-1)?.seq;
    setText(this.status, query ? "Searching…" : "");
    let page = /** @type {Message[]} */ ([]);
    try {
      const asked = { query, limit: PAGE_SIZE, ...(oldest && { before: oldest }) };
      if (query) page = await this.conversation.api.search(this.conversation.other, asked);
    } catch (error) {
      if (query === this.#query) setText(this.status, describeError(error));
      return;
    }
    if (query !== this.#query) return; // another search has begun
    this.#found.push(...page);
    this.more.hidden = page.length < PAGE_SIZE;
    this.#draw();
  }

  #draw() {
    const count = this.#found.length;
    const counted = count === 1 ? "1 message" : `${count}${this.more.hidden ? "" : "+"} messages`;
    setText(this.status, this.#query ? (count ? counted : "Nothing found.") : "");
    this.list.replaceChildren(...this.#found.map((message) => el("li", {}, this.#result(message))));
  }

  /** @param {Message} message */
  #result(message) {
    const { senderId, createdAt, text, seq } = message;
    const isMine = senderId === this.contacts.me.id;
    return el(
      "button",
      { type: "button", onclick: () => this.#show(seq) },
      el("bdi.who-said", {}, isMine ? "You" : nameOf(this.contacts, senderId)),
      el(
        "time",
        { datetime: createdAt, title: formatFullTime(createdAt) },
        formatBriefTime(createdAt),
      ),
      el("span.said", { dir: "auto" }, ...excerpt(text, this.#query)),
    );
  }

  /** @param {number} seq */
  async #show(seq) {
    try {
      await this.actions.show(seq);
    } catch (error) {
      setText(this.status, describeError(error));
    }
  }

  /**
   * Enter searches at once and then shows the newest result; the arrow keys move between results;
   * Escape closes the search.
   *
   * @param {KeyboardEvent & {target: Element}} event
   */
  async #key(event) {
    if (event.isComposing) return;
    const results = [...this.list.querySelectorAll("button")];
    const place = results.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    const inField = event.target === this.field;
    if (event.key === "Escape") this.hide();
    else if (event.key === "Enter" && inField) {
      event.preventDefault();
      await this.#begin();
      this.list.querySelector("button")?.click();
    } else if (event.key === "ArrowDown") (results[place + 1] ?? results.at(-1))?.focus();
    else if (event.key === "ArrowUp" && !inField) (results[place - 1] ?? this.field).focus();
    else return;
    event.preventDefault();
  }
}

/**
 * The part of a text around what was found in it, which is marked.
 *
 * @param {string} text
 * @param {string} query
 */
function excerpt(text, query) {
  const place = Math.max(0, text.toLowerCase().indexOf(query.toLowerCase()));
  const begin = place < BEFORE_MATCH * 2 ? 0 : place - BEFORE_MATCH;
  const end = place + query.length;
  const rest = text.slice(end, begin + SHOWN);
  return [
    (begin ? "…" : "") + text.slice(begin, place),
    el("mark", {}, text.slice(place, end)),
    end + rest.length < text.length ? `${rest}…` : rest,
  ];
}
