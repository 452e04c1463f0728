/* The rows of the messages that are on the page, and the lines between them. */

/** @import { Item, Message } from "./conversation.js" */
/** @import { ConversationView } from "./conversation_view.js" */

import { el, setText } from "./dom.js";
import { formatDay, isSameDay, plainText } from "./format.js";
import { MessageRow } from "./message_row.js";
import { nameOf, nameText } from "./names.js";

const GROUP_MS = 5 * 60_000; // messages of one sender within this time are shown as a group
const SEEN_DISTANCE_PX = 8; // of a message: this much of it may be below the edge

export class MessageRows {
  /** @type {Map<string, MessageRow>} */
  #rows = new Map();
  /** @type {Map<string, HTMLElement>} */
  #lines = new Map(); // day, or "new" -> line between messages
  newest = ""; // key of the last message
  current = ""; // key of the last focused one

  /** @param {ConversationView} view */
  constructor(view) {
    this.view = view;
  }

  /** The line above the first unread message. */
  get newLine() {
    return this.#lines.get("new");
  }

  /**
   * The row that this node is a part of.
   *
   * @param {any} node
   */
  of(node) {
    return this.#rows.get(node.closest?.("li.message")?.dataset.key);
  }

  /** @param {number} seq */
  withSeq(seq) {
    return [...this.#rows.values()].find(({ item }) => item?.seq === seq);
  }

  /**
   * The seq of the last message that is above this line of the screen, or 0.
   *
   * @param {number} bottom
   */
  lastSeqAbove(bottom) {
    const seqs = [...this.#rows.values()].map(({ item, element }) =>
      element.getBoundingClientRect().bottom <= bottom + SEEN_DISTANCE_PX ? (item?.seq ?? 0) : 0,
    );
    return Math.max(0, ...seqs);
  }

  /** The rows and the lines between them, in order. Rows of removed messages are deleted. */
  nodes() {
    const messages = this.view.shown.messages();
    const pending = this.view.shown.reachesEnd ? this.view.conversation.pending : [];
    /** @type {HTMLElement[]} */
    const nodes = [];
    const used = new Set();
    /** @type {Item | null} */
    let before = null;
    for (const item of [...messages, ...pending]) {
      const lines = this.#linesBefore(item, before);
      const row = this.#row(item, before, lines.length > 0);
      nodes.push(...lines, row.element);
      this.newest = row.key;
      used.add(row.key);
      before = item;
    }
    for (const key of this.#rows.keys()) if (!used.has(key)) this.#rows.delete(key);
    this.updateTabOrder();
    return nodes;
  }

  /**
   * @param {Item} item
   * @param {Item | null} before
   */
  #linesBefore(item, before) {
    const lines = [];
    if (!before || !isSameDay(before.createdAt, item.createdAt))
      lines.push(this.#line(new Date(item.createdAt).toDateString(), formatDay(item.createdAt)));
    if (item.seq && item.seq === this.view.shown.firstUnreadSeq)
      lines.push(this.#line("new", "New"));
    return lines;
  }

  /**
   * @param {string} key
   * @param {string} text
   */
  #line(key, text) {
    const line =
      this.#lines.get(key) ?? el(key === "new" ? "li.line.new" : "li.line", {}, el("span"));
    this.#lines.set(key, line);
    setText(line.children[0], text);
    return line;
  }

  /**
   * @param {Item} item
   * @param {Item | null} before
   * @param {boolean} apart
   */
  #row(item, before, apart) {
    const sender = item.senderId ?? this.view.contacts.me.id;
    const mine = sender === this.view.contacts.me.id;
    const key = mine && item.clientId ? `c${item.clientId}` : `m${item._id}`;
    const row = this.#rows.get(key) ?? new MessageRow(key, this.#rowActions());
    this.#rows.set(key, row);
    const isClose = before && Date.parse(item.createdAt) - Date.parse(before.createdAt) < GROUP_MS;
    const follows = Boolean(
      !apart && isClose && (before.senderId ?? this.view.contacts.me.id) === sender,
    );
    const read =
      mine &&
      !this.view.partner.self &&
      (item.seq ?? Infinity) <= (this.view.partner.readUpTo ?? 0);
    const names = (/** @type {string} */ id) => nameOf(this.view.contacts, id);
    row.draw(item, {
      mine,
      read,
      follows,
      sending: this.view.workspace.outbox.isSending(this.view.conversation),
      names,
      me: this.view.contacts.me.id,
      sender: nameText(this.view.partner),
      quote: this.#quoteOf(item),
    });
    return row;
  }

  /** @param {Item} item */
  #quoteOf({ replyTo }) {
    if (!replyTo) return null;
    const original = this.view.conversation.original(replyTo);
    return {
      address: `#/${this.view.conversation.other}/${replyTo}`,
      sender: original ? this.senderOf(original) : "",
      text: original ? plainText(original) : "An earlier message",
    };
  }

  /** @returns {MessageRow["actions"]} */
  #rowActions() {
    return {
      react: (message, emoji) => this.view.workspace.react(message, emoji),
      showOriginal: (id) => this.view.showMessage(id),
      retry: (pending) => this.view.workspace.outbox.retry(this.view.conversation, pending),
      discard: (pending) => this.view.conversation.discard(pending),
    };
  }

  /** @param {Message} message */
  senderOf({ senderId }) {
    return senderId === this.view.contacts.me.id ? "You" : nameOf(this.view.contacts, senderId);
  }

  /** Keep exactly one message in the tab order: the last focused one, or the newest. */
  updateTabOrder() {
    const key = this.#rows.has(this.current) ? this.current : this.newest;
    for (const [name, { element }] of this.#rows) {
      const index = name === key ? 0 : -1;
      if (element.tabIndex !== index) element.tabIndex = index;
    }
  }
}
