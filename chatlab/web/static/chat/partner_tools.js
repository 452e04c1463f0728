/* What I can do about the other user of a conversation: mute and block. */

/** @import { Contact } from "./contacts.js" */

/**
 * @typedef {object} Actions
 * @property {(id: string, muted: boolean) => void} mute
 * @property {(id: string, blocked: boolean) => void} block
 */

import { el, icon, iconButton } from "./dom.js";
import { confirmDialog } from "./message_tools.js";
import { nameTag, nameText } from "./names.js";

/** @typedef {Partial<Contact> & {id: string, displayName: string}} Partner */

export class PartnerTools {
  #drawn = "";

  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    /** @type {Partner | null} */
    this.partner = null;
    this.mute = iconButton("bell", "Mute", () => this.#toggleMute());
    this.block = iconButton("block", "Block", () => this.#toggleBlock());
    this.element = el("div.partner", {}, this.mute, this.block);
    this.bar = el("div.closed", { hidden: true }); // instead of the composer, if writing is not possible
  }

  /** @param {Partner} partner */
  draw(partner) {
    this.partner = partner;
    const { id, displayName, muted, blocked, deleted, self } = partner;
    const key = JSON.stringify([id, displayName, muted, blocked, deleted, self]);
    if (key === this.#drawn) return;
    this.#drawn = key;
    this.element.hidden = Boolean(self || deleted);
    this.mute.replaceChildren(icon(muted ? "bell-off" : "bell"));
    this.mute.setAttribute("aria-pressed", String(Boolean(muted)));
    this.block.setAttribute("aria-pressed", String(Boolean(blocked)));
    this.bar.hidden = !(blocked || deleted);
    if (deleted) this.bar.replaceChildren("This account has been deleted.");
    else if (blocked)
      this.bar.replaceChildren(
        el("span", {}, "You have blocked ", nameTag(partner), "."),
        el("button.link", { type: "button", onclick: () => this.#toggleBlock() }, "Unblock"),
      );
  }

  #toggleMute() {
    if (this.partner) this.actions.mute(this.partner.id, !this.partner.muted);
  }

  async #toggleBlock() {
    const { partner } = this;
    if (!partner) return;
    const question = `Block ${nameText(partner)}? You will get no more messages from this user. Earlier messages stay.`;
    if (partner.blocked || (await confirmDialog(question, "Block")))
      this.actions.block(partner.id, !partner.blocked);
  }
}

/** The sign in the list of users for someone who is muted or blocked. */
export function partnerSign() {
  const sign = el("span.sign", { hidden: true });
  return {
    element: sign,
    /** @param {Contact} partner */
    draw({ muted, blocked }) {
      const label = blocked ? "blocked" : muted ? "muted" : "";
      if (sign.title === label) return;
      sign.title = label;
      sign.hidden = !label;
      sign.replaceChildren(
        icon(blocked ? "block" : "bell-off"),
        el("span.unseen", {}, ` ${label}`),
      );
    },
  };
}
