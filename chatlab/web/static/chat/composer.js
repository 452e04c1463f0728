/* The text field for a new message, or for the new text of an existing one. */

import { el, icon, iconButton, setText } from "./dom.js";
import { countCharacters, hasVisible } from "./format.js";

/** @import { Message } from "./conversation.js" */

/**
 * @typedef {object} Actions
 * @property {(text: string) => void} send
 * @property {(message: Message, text: string) => Promise<boolean>} edit
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
    this.savedDraft = ""; // the draft, while another message is edited
    this.input = el("textarea", {
      rows: "1",
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
    this.banner = el(
      "div.editing",
      { hidden: true },
      icon("pencil"),
      el("span", {}, "Editing your message"),
      iconButton("close", "Cancel editing", () => this.cancel()),
    );
    this.element = el(
      "form.composer",
      { onsubmit: (event) => this.#submit(event) },
      this.banner,
      el("div.line", {}, this.input, this.count, this.button),
    );
    this.#changed();
  }

  /** The text of the new message, without an edit. */
  get draft() {
    return this.editing ? this.savedDraft : this.input.value;
  }

  /** @param {string} text */
  set(text) {
    this.input.value = text;
    this.#changed({ isTyping: false });
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  /** @param {Message} message */
  edit(message) {
    if (!this.editing) this.savedDraft = this.input.value;
    this.editing = message;
    this.banner.hidden = false;
    this.set(message.text);
    this.focus();
    this.input.setSelectionRange(message.text.length, message.text.length);
  }

  cancel() {
    this.editing = null;
    this.banner.hidden = true;
    this.set(this.savedDraft);
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
  }

  /** Make the field as tall as its text. The style sheet limits its height. */
  #fit() {
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
      this.set("");
      this.#stopTyping();
      this.actions.send(text);
    } else if (text === this.editing.text || (await this.actions.edit(this.editing, text)))
      this.cancel();
    this.focus();
  }
}
