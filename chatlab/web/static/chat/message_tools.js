/* What can be done with a message: one small bar that goes to the message under the pointer, or with the focus. */

import { el, iconButton } from "./dom.js";

const PALETTE = {
  "👍": "thumbs up", "❤️": "heart", "😂": "laughing", "🎉": "party", "😮": "surprised", "😢": "sad", "🙏": "thank you", "👀": "looking",
};

export class MessageTools {
  /** `acts` has react, edit, remove. */
  constructor(acts) {
    this.acts = acts;
    this.row = null;
    this.element = el("div.tools", { role: "toolbar", "aria-label": "Message" });
  }

  /** Go to a row that shows a sent message; away from any other. */
  attach(row, mine) {
    const message = row?.item;
    if (!message?._id || message.deletedAt) return this.detach();
    if (this.row === row && this.element.isConnected) return;
    this.row = row;
    this.mine = mine;
    this.#offer();
    row.body.append(this.element);
  }

  detach() {
    if (!this.row) return;
    this.row = null;
    this.element.remove();
  }

  /** The message may have been deleted under the bar. */
  check() {
    if (this.row?.item.deletedAt || !this.element.isConnected) this.detach();
  }

  #offer() {
    const buttons = [iconButton("smile", "React", () => this.#palette())];
    if (this.mine) {
      buttons.push(iconButton("pencil", "Edit", () => this.#act(this.acts.edit)));
      buttons.push(iconButton("bin", "Delete", () => this.#act(this.acts.remove)));
    }
    this.element.classList.remove("palette");
    this.element.replaceChildren(...buttons);
  }

  #palette() {
    const buttons = Object.entries(PALETTE).map(([emoji, name]) =>
      el("button.emoji", { type: "button", "aria-label": `React with ${name}`, onclick: () => this.#act((message) => this.acts.react(message, emoji)) }, emoji),
    );
    const old = [...this.element.children];
    this.element.classList.add("palette");
    this.element.append(...buttons);
    buttons[0].focus({ preventScroll: true }); // before the old ones go: the focus never leaves the bar
    old.forEach((button) => button.remove());
  }

  #act(act) {
    const { item, element } = this.row;
    element.focus({ preventScroll: true }); // before the button goes: the focus stays with the message
    this.#offer();
    act(item);
  }
}

/** Ask before something is gone; resolves to true or false. */
export function sure(question, yes) {
  return new Promise((resolve) => {
    const dialog = el(
      "dialog", { "aria-label": question }, el("p", {}, question),
      el(
        "form.choices", { method: "dialog" },
        el("button", { value: "no", autofocus: true }, "Cancel"), el("button.danger", { value: "yes" }, yes),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
