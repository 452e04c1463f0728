/* The list of users. */

/** @import { Contact, Contacts } from "./contacts.js" */
/** @import { Message } from "./conversation.js" */
/** @import { Named } from "./names.js" */
/** @import { User } from "./session.js" */

import { el, icon, iconButton, setChildren, setText } from "./dom.js";
import { colourClass, fold, formatBriefTime, initials } from "./format.js";
import { openHelpDialog } from "./help_dialog.js";
import { showName } from "./names.js";
import { partnerSign } from "./partner_tools.js";

/** @param {Named} user */
export function avatar(user) {
  return el(
    `span.avatar.${colourClass(user.id)}`,
    { "aria-hidden": "true" },
    user.self ? icon("note") : initials(user.displayName),
  );
}

export class ContactsView {
  /** @type {Map<string, Row>} */
  #rows = new Map(); // by user id
  #openId = "";

  /**
   * @param {Contacts} contacts
   * @param {{leave: () => void, openAccount: () => void}} actions
   */
  constructor(contacts, { leave, openAccount }) {
    this.contacts = contacts;
    this.list = el("ul.contacts", { role: "list", onscroll: () => this.#loadMore() });
    this.filter = el("input", {
      type: "search",
      placeholder: "Find a user",
      "aria-label": "Find a user",
      autocomplete: "off",
      oninput: () => {
        contacts.find(this.filter.value.trim());
        this.draw(this.#openId);
      },
    });
    this.hint = el("p.hint", { role: "status" });
    const me = contacts.me;
    this.myName = el("strong", {}, me.displayName);
    this.element = el(
      "nav.side",
      { "aria-label": "Conversations" },
      el(
        "header.me",
        {},
        avatar(me),
        el("div.who", {}, this.myName, el("small", {}, `@${me.id}`)),
        iconButton("help", "Help", openHelpDialog),
        iconButton("settings", "Account settings", openAccount),
        iconButton("leave", "Log out", leave),
      ),
      el("div.filter", {}, icon("search"), this.filter),
      this.list,
      this.hint,
    );
  }

  /** Load more when the end of the list is near. */
  #loadMore() {
    const { scrollTop, scrollHeight, clientHeight } = this.list;
    if (!this.filter.value && scrollTop + 2 * clientHeight > scrollHeight)
      this.contacts.loadMore().catch(() => {}); // the next movement tries again
  }

  /**
   * Focus the row of a user.
   *
   * @param {string} id
   */
  focus(id) {
    this.#rows.get(id)?.link.focus();
  }

  /** @param {string} openId */
  draw(openId) {
    this.#openId = openId;
    setText(this.myName, this.contacts.me.displayName);
    const wanted = fold(this.filter.value.trim());
    const found = this.contacts
      .sorted()
      .filter(({ id, displayName }) => id.includes(wanted) || fold(displayName).includes(wanted));
    setChildren(
      this.list,
      found.map((user) => this.#row(user)),
    );
    setText(this.hint, this.#hintFor(found));
  }

  /**
   * Why the list is empty, or "".
   *
   * @param {Contact[]} found
   */
  #hintFor(found) {
    if (!this.contacts.loaded) return "Loading…";
    if (!found.length) return this.contacts.searching ? "Searching…" : "No user has this name.";
    return this.contacts.byId.size === 1
      ? "There are no other users yet. New users appear here when they sign up."
      : "";
  }

  /** @param {Contact} user */
  #row(user) {
    const row = this.#rows.get(user.id) ?? new Row(user);
    this.#rows.set(user.id, row);
    row.draw(user, this.contacts, user.id === this.#openId);
    return row.element;
  }
}

class Row {
  /** @param {Contact} user */
  constructor(user) {
    this.dot = el("span.dot", { hidden: true }, el("span.unseen", {}, "online"));
    this.name = el("span.whose");
    this.sign = partnerSign();
    this.time = el("time");
    this.preview = el("span.preview", { dir: "auto" });
    this.count = el("span");
    this.badge = el("span.badge", { hidden: true }, this.count, el("span.unseen", {}, " unread"));
    const line = el("span.preview-line", {}, this.sign.element, this.preview);
    this.link = el(
      "a",
      { href: `#/${user.id}`, "data-user": user.id },
      el("span.face", {}, avatar(user), this.dot),
      this.name,
      this.time,
      line,
      this.badge,
    );
    this.element = el("li", {}, this.link);
  }

  /**
   * @param {Contact} user
   * @param {Contacts} contacts
   * @param {boolean} open
   */
  draw(user, contacts, open) {
    const { lastMessage: last, unread } = user;
    const typing = contacts.typing.has(user.id);
    this.dot.hidden = !user.online || Boolean(user.self);
    showName(this.name, user);
    this.sign.draw(user);
    setText(this.time, last ? formatBriefTime(last.createdAt) : "");
    setText(this.preview, typing ? "typing…" : preview(last, user, contacts.me));
    this.preview.classList.toggle("typing", typing);
    this.badge.hidden = !unread;
    setText(this.count, unread > 99 ? "99+" : String(unread));
    this.link.classList.toggle("unread", unread > 0);
    this.link.classList.toggle("muted", Boolean(user.muted));
    if (open) this.link.setAttribute("aria-current", "page");
    else this.link.removeAttribute("aria-current");
  }
}

/**
 * @param {Message | null} last
 * @param {Contact} user
 * @param {User} me
 */
function preview(last, user, me) {
  if (!last) return user.self ? "Notes to yourself" : "No messages yet";
  const text = last.deletedAt ? "Message deleted" : last.text.slice(0, 120);
  return last.senderId === me.id && !user.self ? `You: ${text}` : text;
}
