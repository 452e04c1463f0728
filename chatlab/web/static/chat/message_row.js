/* One message in the list, sent or pending. */

/** @import { Item, Message, Pending } from "./conversation.js" */

/**
 * @typedef {object} Actions
 * @property {(message: Message, emoji: string) => void} react
 * @property {(pending: Pending) => void} retry
 * @property {(pending: Pending) => void} discard
 * @property {(id: string) => void} showOriginal
 *
 * @typedef {object} Context
 * @property {boolean} mine
 * @property {boolean} read
 * @property {boolean} sending - the pending messages are being sent
 * @property {boolean} follows - the message before is of the same sender and close in time
 * @property {(id: string) => string} names
 * @property {string} me
 * @property {string} sender - the name of the other user
 * @property {Quote | null} quote - of the message that this one answers
 *
 * @typedef {{address: string, sender: string, text: string}} Quote
 */

import { el, icon } from "./dom.js";
import { ChatError, describeError, formatFullTime, formatTime } from "./format.js";
import { isLargeEmoji, richText } from "./rich_text.js";

export class MessageRow {
  #drawn = "";

  /**
   * @param {string} key
   * @param {Actions} actions
   */
  constructor(key, actions) {
    this.key = key;
    this.actions = actions;
    /** @type {Item | undefined} */
    this.item = undefined;
    this.content = el("div.content");
    this.body = el("div.body", {}, this.content); // the toolbar is appended here
    this.element = el("li.message", { tabindex: "-1", "data-key": key }, this.body);
  }

  /**
   * Draw a sent or pending message.
   *
   * @param {Item} item
   * @param {Context} context
   */
  draw(item, context) {
    const state = [
      item.version,
      item.state,
      item.error?.code,
      item.error?.detail,
      context.read,
      context.follows,
      context.sending && item.state,
      context.quote,
      Object.values(item.reactions ?? {}),
    ];
    const key = JSON.stringify(state);
    if (key === this.#drawn) return;
    this.#drawn = key;
    this.item = item;
    this.#classes(item, context);
    const hadFocus = this.content.contains(document.activeElement);
    this.content.replaceChildren(...this.#parts(item, context));
    if (hadFocus) this.element.focus({ preventScroll: true });
  }

  /**
   * @param {Item} item
   * @param {Context} context
   */
  #classes(item, { mine, follows }) {
    const flags = {
      mine,
      follows,
      deleted: Boolean(item.deletedAt),
      refused: item.state === "refused",
      waiting: item.state === "queued",
    };
    for (const [name, on] of Object.entries(flags)) this.element.classList.toggle(name, on);
  }

  /**
   * @param {Item} item
   * @param {Context} context
   */
  #parts(item, context) {
    // The direction is that of the text: the parts around it have one of their own.
    const parts = [
      el(
        "div.bubble",
        { dir: "auto" },
        sender(context),
        ...this.#quote(item, context),
        text(item),
        meta(item, context),
      ),
    ];
    if (item.reactions && Object.keys(item.reactions).length)
      parts.push(this.#reactions(item, context));
    if (item.state === "refused") parts.push(this.#refusal(item));
    if (item.state === "queued" && !context.sending) parts.push(this.#waiting(item));
    return parts;
  }

  /**
   * @param {Item} item
   * @param {Context} context
   */
  #quote({ replyTo, deletedAt }, { quote }) {
    if (!quote || !replyTo || deletedAt) return [];
    const onclick = (/** @type {MouseEvent} */ event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens the link elsewhere
      event.preventDefault();
      this.actions.showOriginal(replyTo);
    };
    const link = el(
      "a.quote",
      { href: quote.address, dir: "auto", onclick },
      el("span.unseen", {}, "In reply to "),
      el("bdi.who-said", {}, quote.sender),
      el("span.unseen", {}, ": "),
      el("span.said", {}, quote.text),
    );
    return [link];
  }

  /**
   * @param {Message} message
   * @param {Context} context
   */
  #reactions(message, { names, me }) {
    const chips = Object.entries(message.reactions).map(([emoji, users]) => {
      const who = users.map((id) => (id === me ? "you" : names(id))).join(", ");
      const attributes = {
        type: "button",
        "aria-pressed": String(users.includes(me)),
        title: who,
        "aria-label": `${emoji} ${users.length} by ${who}`,
      };
      const parts = [el("span.glyph", {}, emoji), el("span.times", {}, String(users.length))];
      return el(
        "button.reaction",
        { ...attributes, onclick: () => this.actions.react(message, emoji) },
        ...parts,
      );
    });
    return el("div.reactions", { role: "group", "aria-label": "Reactions" }, ...chips);
  }

  /** @param {Pending} pending */
  #waiting(pending) {
    return el(
      "div.will-be-sent",
      {},
      el("span", {}, "Will be sent."),
      this.#discardButton(pending),
    );
  }

  /** @param {Pending} pending */
  #discardButton(pending) {
    const onclick = () => this.actions.discard(pending);
    return el("button.link", { type: "button", onclick }, "Discard");
  }

  /** @param {Pending} pending */
  #refusal(pending) {
    const { code, detail } = pending.error ?? { code: "internal", detail: "" };
    return el(
      "div.refusal",
      { role: "alert" },
      icon("alert"),
      el("span", {}, `Not sent. ${describeError(new ChatError(code, detail))}`),
      el(
        "button.link",
        { type: "button", onclick: () => this.actions.retry(pending) },
        "Try again",
      ),
      this.#discardButton(pending),
    );
  }
}

/**
 * The name of the sender, for screen readers: others see it from the side the message is on.
 *
 * @param {Context} context
 */
function sender({ mine, sender: name }) {
  return el("bdi.unseen", {}, `${mine ? "You" : name}: `);
}

/** @param {Item} item */
function text(item) {
  if (item.deletedAt) return el("div.text", {}, "Message deleted");
  return el(isLargeEmoji(item.text) ? "div.text.large" : "div.text", {}, ...richText(item.text));
}

/**
 * @param {Item} item
 * @param {Context} context
 */
function meta(item, { mine, read }) {
  /** @type {HTMLElement[]} */
  const parts = [
    el(
      "time",
      { datetime: item.createdAt, title: formatFullTime(item.createdAt) },
      formatTime(item.createdAt),
    ),
  ];
  if (item.editedAt && !item.deletedAt)
    parts.unshift(el("span.edited", { title: formatFullTime(item.editedAt) }, "edited"));
  if (mine && item.state !== "refused")
    parts.push(status(item.state ? "clock" : read ? "read" : "sent"));
  return el("span.meta", { dir: "ltr" }, ...parts);
}

/** @type {Record<string, string>} */
const STATUS = { clock: "waiting", sent: "sent", read: "read" };

/** @param {string} name */
function status(name) {
  return el(
    `span.status.${STATUS[name]}`,
    { title: STATUS[name] },
    icon(name),
    el("span.unseen", {}, ` ${STATUS[name]}`),
  );
}
