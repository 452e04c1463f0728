/* Where one writes: a new message, or a new text for an old one. */

import { el, icon, iconButton, say } from "./dom.js";
import { lengthOf } from "./words.js";

const LONGEST = 4000; // characters, as the contract says
const TELL_EVERY = 3000; // ms between two signs that one is typing

export class Composer {
  #told = 0; // when we last said that we type

  /** `acts` has send(text), edit(message, text), typing(bool), editLast(). */
  constructor(name, acts) {
    this.acts = acts;
    this.editing = null;
    this.kept = "";
    this.input = el("textarea", {
      rows: "1", "aria-label": `Message to ${name}`, placeholder: "Write a message", "aria-describedby": "composer-count",
      oninput: () => this.#changed(), onkeydown: (event) => this.#key(event), onblur: () => this.#stopTyping(),
    });
    this.button = el("button.send", { type: "submit", "aria-label": "Send", title: "Send" }, icon("send"));
    this.count = el("span.count", { id: "composer-count", role: "status" });
    this.banner = el(
      "div.editing", { hidden: true }, icon("pencil"), el("span", {}, "Editing your message"),
      iconButton("close", "Cancel editing", () => this.cancel()),
    );
    this.element = el(
      "form.composer", { onsubmit: (event) => this.#submit(event) },
      this.banner, el("div.line", {}, this.input, this.count, this.button),
    );
    this.#changed();
  }

  /** What is being written, but for an edit. */
  get draft() {
    return this.editing ? this.kept : this.input.value;
  }

  set(text) {
    this.input.value = text;
    this.#changed({ quietly: true });
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  edit(message) {
    if (!this.editing) this.kept = this.input.value;
    this.editing = message;
    this.banner.hidden = false;
    this.set(message.text);
    this.focus();
    this.input.setSelectionRange(message.text.length, message.text.length);
  }

  cancel() {
    this.editing = null;
    this.banner.hidden = true;
    this.set(this.kept);
    this.focus();
  }

  close() {
    this.#stopTyping();
  }

  #changed({ quietly = false } = {}) {
    const length = lengthOf(this.input.value);
    this.button.disabled = length === 0 || length > LONGEST;
    say(this.count, length > LONGEST ? `${length - LONGEST} too many` : length > LONGEST - 400 ? `${LONGEST - length} left` : "");
    this.count.classList.toggle("over", length > LONGEST);
    this.#fit();
    if (!quietly && !this.editing) this.#tellTyping(length > 0);
  }

  /** As tall as what is written; the style sheet says when it scrolls. */
  #fit() {
    this.input.style.height = "auto";
    if (this.input.scrollHeight) this.input.style.height = `${this.input.scrollHeight}px`;
  }

  #tellTyping(typing) {
    if (!typing) return this.#stopTyping();
    if (Date.now() - this.#told < TELL_EVERY) return;
    this.#told = Date.now();
    this.acts.typing(true);
  }

  #stopTyping() {
    if (this.#told) this.acts.typing(false);
    this.#told = 0;
  }

  #key(event) {
    const plain = !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey && !event.isComposing;
    const touch = matchMedia("(pointer: coarse)").matches; // there Enter makes a new line, and the button sends
    if (event.key === "Enter" && plain && !touch) this.#submit(event);
    else if (event.key === "Escape" && this.editing) this.cancel();
    else if (event.key === "ArrowUp" && plain && !this.input.value) {
      event.preventDefault();
      this.acts.editLast();
    }
  }

  async #submit(event) {
    event.preventDefault();
    const text = this.input.value.toWellFormed?.().trim() ?? this.input.value.trim(); // half a surrogate pair is no text
    if (this.button.disabled) return;
    if (!this.editing) {
      this.set("");
      this.#stopTyping();
      this.acts.send(text);
    } else if (text === this.editing.text || (await this.acts.edit(this.editing, text))) this.cancel();
    this.focus();
  }
}
