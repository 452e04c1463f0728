/* The text field for a new message, or for the new text of an existing one. */

import { el, icon, iconButton, setText } from "./dom.js";
import { countCharacters, hasVisible, plainText } from "./format.js";

/** @import { Message } from "./conversation.js" */
/** @import { Draft } from "./unsent.js" */

/**
 * @typedef {object} Actions
 * @property {(draft: Draft) => void} send
 * @property {(message: Message, text: string) => Promise<boolean>} edit
 * @property {(draft: Draft) => void} keepDraft - called after each change of the new message
 * @property {(message: Message) => string} nameOf - the sender of a message
 * @property {(typing: boolean) => void} typing
 * @property {() => void} editLast
 */

const MAX_CHARACTERS = 4000; // the service rejects longer messages
const OF_INPUT_METHOD = 229; // the key code of a key that an input method has used, in all browsers
const TYPING_INTERVAL_MS = 3000; // between two `typing` events while the user types

export class Composer {
  #typingSentAt = 0; // 0: the other user does not see "typing"

  /**
   * @param {string} name
   * @param {Actions} actions
   */
  constructor(name, actions) {
    this.actions = actions;
    /** @type {Message | null} */
    this.editing = null;
    /** @type {Message | null} */
    this.original = null; // the message that the new one answers
    this.savedText = ""; // of the new message, while another one is edited
    this.input = el("textarea", {
      rows: "1",
      dir: "auto",
      "aria-label": `Message to ${name}`,
      placeholder: "Write a message",
      "aria-describedby": "composer-count",
      oninput: () => this.#changed(),
      onkeydown: (event) => this.#key(event),
      onblur: () => this.#stopTyping(),
    });
    this.button = el(
      "button.send",
      { type: "submit", "aria-label": "Send", title: "Send" },
      icon("send"),
    );
    this.count = el("span.count", { id: "composer-count", role: "status" });
    this.banner = el("div.banner", { hidden: true });
    this.element = el(
      "form.composer",
      { onsubmit: (event) => this.#submit(event) },
      this.banner,
      el("div.line", {}, this.input, this.count, this.button),
    );
    this.#changed({ isTyping: false });
  }

  /**
   * The new message, without an edit.
   *
   * @returns {Draft}
   */
  get draft() {
    return { text: this.editing ? this.savedText : this.input.value, original: this.original };
  }

  /** @param {Draft} draft */
  open({ text, original }) {
    this.original = original;
    this.#drawBanner();
    this.#set(text);
  }

  /** @param {string} text */
  #set(text) {
    this.input.value = text;
    this.#changed({ isTyping: false });
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  /** On a phone the keyboard would hide the messages. */
  focusUnlessTouch() {
    if (!matchMedia("(pointer: coarse)").matches) this.focus();
  }

  /**
   * Let the new message answer this one.
   *
   * @param {Message | null} original
   */
  reply(original) {
    if (this.editing) this.cancel();
    this.original = original;
    this.#drawBanner();
    this.actions.keepDraft(this.draft);
    this.focus();
  }

  /** Show what is edited, or answered. */
  #drawBanner() {
    const { editing, original } = this;
    this.banner.hidden = !editing && !original;
    if (editing)
      this.banner.replaceChildren(
        icon("pencil"),
        el("span.about", {}, "Editing your message"),
        iconButton("close", "Cancel editing", () => this.cancel()),
      );
    else if (original)
      this.banner.replaceChildren(
        icon("reply"),
        el("span.about", {}, "Replying to ", el("bdi", {}, this.#nameOf(original))),
        el("span.original", { dir: "auto" }, plainText(original)),
        iconButton("close", "Cancel the reply", () => this.reply(null)),
      );
  }

  /** @param {Message} original */
  #nameOf(original) {
    const name = this.actions.nameOf(original);
    return name === "You" ? "yourself" : name;
  }

  /** @param {Message} message */
  edit(message) {
    if (!this.editing) this.savedText = this.input.value;
    this.editing = message;
    this.#drawBanner();
    this.#set(message.text);
    this.focus();
    this.input.setSelectionRange(message.text.length, message.text.length);
  }

  cancel() {
    this.editing = null;
    this.#drawBanner();
    this.#set(this.savedText);
    this.focus();
  }

  close() {
    this.#stopTyping();
  }

  #changed({ isTyping = true } = {}) {
    const length = countCharacters(this.input.value);
    const left = MAX_CHARACTERS - length;
    this.button.disabled = !hasVisible(this.input.value) || left < 0;
    setText(this.count, left < 0 ? `${-left} too many` : left < 400 ? `${left} left` : "");
    this.count.classList.toggle("over", left < 0);
    this.#fit();
    if (isTyping && !this.editing) this.#sendTyping(length > 0);
    if (isTyping) this.actions.keepDraft(this.draft);
  }

  /** Make the field as tall as its text, where the style sheet cannot. It limits the height. */
  #fit() {
    if (CSS.supports("field-sizing", "content")) return;
    this.input.style.height = "auto";
    if (this.input.scrollHeight) this.input.style.height = `${this.input.scrollHeight}px`;
  }

  /** @param {boolean} typing */
  #sendTyping(typing) {
    if (!typing) return this.#stopTyping();
    if (Date.now() - this.#typingSentAt < TYPING_INTERVAL_MS) return;
    this.#typingSentAt = Date.now();
    this.actions.typing(true);
  }

  #stopTyping() {
    if (this.#typingSentAt) this.actions.typing(false);
    this.#typingSentAt = 0;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    // Safari ends a composition before the Enter that ended it: only the key code tells.
    if (event.isComposing || event.keyCode === OF_INPUT_METHOD) return;
    const plain = !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey;
    const touch = matchMedia("(pointer: coarse)").matches; // on a phone, Enter starts a new line
    if (event.key === "Enter" && plain && !touch) this.#submit(event);
    else if (event.key === "Escape" && this.editing) this.cancel();
    else if (event.key === "Escape" && this.original) this.reply(null);
    else if (event.key === "ArrowUp" && plain && !this.input.value) {
      event.preventDefault();
      this.actions.editLast();
    }
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    // Half a surrogate pair is not valid text: the service would reject it.
    const text = this.input.value.toWellFormed?.().trim() ?? this.input.value.trim();
    if (this.button.disabled) return;
    if (!this.editing) {
      this.actions.send({ text, original: this.original });
      this.open({ text: "", original: null });
      this.actions.keepDraft(this.draft);
      this.#stopTyping();
    } else if (text === this.editing.text || (await this.actions.edit(this.editing, text)))
      this.cancel();
    this.focus();
  }
}
