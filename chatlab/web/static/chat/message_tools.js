/* The toolbar of a message. There is one; it moves to the message under the pointer or with the focus. */

import { el, iconButton } from "./dom.js";

const PALETTE = {
  "👍": "thumbs up",
  "❤️": "heart",
  "😂": "laughing",
  "🎉": "party",
  "😮": "surprised",
  "😢": "sad",
  "🙏": "thank you",
  "👀": "looking",
};

export class MessageTools {
  /** `actions`: react, edit, remove. */
  constructor(actions) {
    this.actions = actions;
    this.row = null;
    this.element = el("div.tools", { role: "toolbar", "aria-label": "Message" });
  }

  /** Show the toolbar at this row if it has a sent message, and hide it otherwise. */
  attach(row, mine) {
    const message = row?.item;
    if (!message?._id || message.deletedAt) return this.detach();
    if (this.row === row && this.element.isConnected) return;
    this.row = row;
    this.mine = mine;
    this.#showButtons();
    row.body.append(this.element);
  }

  detach() {
    if (!this.row) return;
    this.row = null;
    this.element.remove();
  }

  /** Hide the toolbar if its message has been deleted. */
  update() {
    if (this.row?.item.deletedAt || !this.element.isConnected) this.detach();
  }

  #showButtons() {
    const buttons = [iconButton("smile", "React", () => this.#showPalette())];
    if (this.mine) {
      buttons.push(iconButton("pencil", "Edit", () => this.#run(this.actions.edit)));
      buttons.push(iconButton("bin", "Delete", () => this.#run(this.actions.remove)));
    }
    this.element.classList.remove("palette");
    this.element.replaceChildren(...buttons);
  }

  #showPalette() {
    const buttons = Object.entries(PALETTE).map(([emoji, name]) =>
      el(
        "button.emoji",
        {
          type: "button",
          "aria-label": `React with ${name}`,
          onclick: () => this.#run((message) => this.actions.react(message, emoji)),
        },
        emoji,
      ),
    );
    const old = [...this.element.children];
    this.element.classList.add("palette");
    this.element.append(...buttons);
    buttons[0].focus({ preventScroll: true }); // before the old buttons are removed: the focus must stay in the toolbar
    for (const button of old) button.remove();
  }

  #run(action) {
    const { item, element } = this.row;
    element.focus({ preventScroll: true }); // before the button is removed: the focus stays with the message
    this.#showButtons();
    action(item);
  }
}

/** Ask the user to confirm. Resolves to true or false. */
export function confirmDialog(question, yes) {
  return new Promise((resolve) => {
    const dialog = el(
      "dialog",
      { "aria-label": question },
      el("p", {}, question),
      el(
        "form.choices",
        { method: "dialog" },
        el("button", { value: "no", autofocus: true }, "Cancel"),
        el("button.danger", { value: "yes" }, yes),
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
