/* The toolbar of a message. There is one; it moves to the message under the pointer or with the
   focus. */

/** @import { Message } from "./conversation.js" */
/** @import { MessageRow } from "./message_row.js" */

/**
 * @typedef {object} Actions
 * @property {(message: Message, emoji: string) => void} react
 * @property {(message: Message) => void} reply
 * @property {(message: Message) => void} edit
 * @property {(message: Message) => void} remove
 */

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
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    /** @type {MessageRow | null} */
    this.row = null;
    this.mine = false;
    this.element = el("div.tools", { role: "toolbar", "aria-label": "Message" });
  }

  /**
   * Show the toolbar at this row if it has a sent message, and hide it otherwise.
   *
   * @param {MessageRow | undefined} row
   * @param {boolean} mine
   */
  attach(row, mine) {
    if (!row?.item?._id || row.item.deletedAt) return this.detach();
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
    if (this.row?.item?.deletedAt || !this.element.isConnected) this.detach();
  }

  #showButtons() {
    const buttons = [
      iconButton("smile", "React", () => this.#showPalette()),
      iconButton("reply", "Reply", () => this.#run(this.actions.reply)),
    ];
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
    // before the old buttons are removed: the focus must stay in the toolbar
    buttons[0].focus({ preventScroll: true });
    for (const button of old) button.remove();
  }

  /** @param {(message: Message) => void} action */
  #run(action) {
    const { item, element } = this.row ?? {};
    if (!item?._id || !element) return;
    // before the button is removed: the focus stays with the message
    element.focus({ preventScroll: true });
    this.#showButtons();
    action(item);
  }
}

/**
 * Ask the user to confirm. Resolves to true or false.
 *
 * @param {string} question
 * @param {string} yes
 * @returns {Promise<boolean>}
 */
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
