/* The open conversation: its header, its messages and the composer. */

import { Composer } from "./composer.js";
import { avatar, labelOf } from "./contacts_view.js";
import { el, icon, setChildren, setText } from "./dom.js";
import { describeError, formatDay, isSameDay } from "./format.js";
import { MessageRow } from "./message_row.js";
import { confirmDialog, MessageTools } from "./message_tools.js";

const GROUP_MS = 5 * 60_000; // messages of one sender within this time are shown as a group
const LOAD_DISTANCE_PX = 400; // from the top: older messages are loaded
const END_DISTANCE_PX = 48; // from the end: this still counts as the end

export class ConversationView {
  #rows = new Map(); // key -> MessageRow
  #lines = new Map(); // day, or "new" -> line between messages
  #followsEnd = true; // show new messages at the end
  #endScrollTop = 0; // scrollTop after the last scroll to the end
  #lastSeenSeq = 0; // the last message that was on the screen
  #firstUnreadSeq = null; // when the conversation was opened; 0: none; null: not known yet

  /** `workspace` sends and changes messages. */
  constructor(conversation, contacts, workspace) {
    Object.assign(this, { conversation, contacts, workspace });
    this.partner = contacts.get(conversation.other) ?? {
      id: conversation.other,
      displayName: conversation.other,
    };
    this.unreadAtFirst = this.partner.unread ?? 0;
    this.composer = new Composer(this.partner.displayName, {
      send: (text) => this.#send(text),
      edit: (message, text) => workspace.edit(message, text),
      typing: (typing) => workspace.typing(conversation, typing),
      editLast: () => this.#editLast(),
    });
    this.tools = new MessageTools({
      react: (message, emoji) => workspace.react(message, emoji),
      edit: (message) => this.composer.edit(message),
      remove: (message) => this.#remove(message),
    });
    this.#build();
  }

  get draft() {
    return this.composer.draft;
  }

  open(draft) {
    this.composer.set(draft);
    this.watcher = new ResizeObserver(() => this.#checkFollowsEnd() && this.#scrollToEnd());
    this.watcher.observe(this.scroller);
    if (!this.conversation.loaded) this.conversation.loadOlder();
    this.draw();
    if (!matchMedia("(pointer: coarse)").matches) this.composer.focus(); // on a phone the keyboard would hide the messages
  }

  close() {
    this.watcher?.disconnect();
    this.composer.close();
  }

  #build() {
    this.face = el("span.face");
    this.name = el("h2");
    this.presence = el("p.presence", { "aria-live": "polite" });
    this.top = el("div.top");
    this.list = el("ol.messages", {
      role: "list",
      onkeydown: (event) => this.#key(event),
      onpointerover: (event) => event.pointerType === "mouse" && this.#point(event.target),
      onpointerleave: () => this.list.contains(document.activeElement) || this.tools.detach(),
      onfocusin: (event) => this.#focused(event.target),
      onfocusout: (event) => this.list.contains(event.relatedTarget) || this.tools.detach(),
      onclick: (event) => this.#clicked(event),
    });
    this.scroller = el("div.scroller", { onscroll: () => this.#scrolled() }, this.top, this.list);
    this.jump = el("button.jump", {
      type: "button",
      hidden: true,
      onclick: () => this.#scrollToEnd(),
    });
    this.element = el(
      "section.conversation",
      {},
      el(
        "header.bar",
        {},
        el(
          "a.icon-button.back",
          { href: "#", "aria-label": "Back to the list", title: "Back to the list" },
          icon("back"),
        ),
        this.face,
        el("div.who", {}, this.name, this.presence),
      ),
      el("div.middle", {}, this.scroller, this.jump),
      this.composer.element,
    );
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  draw() {
    this.partner = this.contacts.get(this.conversation.other) ?? this.partner;
    const anchor = this.#checkFollowsEnd() ? null : this.#firstVisibleRow();
    const top = anchor?.getBoundingClientRect().top;
    this.#drawHeader();
    this.#drawTop();
    this.#findFirstUnread();
    setChildren(this.list, this.#nodes());
    if (this.#followsEnd) this.#scrollToEnd();
    else if (anchor?.isConnected)
      this.scroller.scrollTop += anchor.getBoundingClientRect().top - top; // the message being read does not move
    this.tools.update();
    this.#updateAfterScroll();
  }

  #drawHeader() {
    if (this.name.textContent !== labelOf(this.partner)) this.#drawPartner();
    const typing = this.contacts.typing.has(this.partner.id);
    const self = this.partner.self;
    setText(
      this.presence,
      typing
        ? "typing…"
        : self
          ? "Notes that only you can see"
          : this.partner.online
            ? "online"
            : "offline",
    );
    this.presence.classList.toggle("online", Boolean(this.partner.online) && !self);
    this.presence.classList.toggle("typing", typing);
  }

  /** Show the name and the avatar. They are known at once, or when the list of users has been loaded. */
  #drawPartner() {
    const { displayName } = this.partner;
    setText(this.name, labelOf(this.partner));
    this.face.replaceChildren(avatar(this.partner));
    this.list.setAttribute("aria-label", `Messages with ${displayName}`);
    this.composer.input.setAttribute("aria-label", `Message to ${displayName}`);
  }

  #drawTop() {
    const { loading, complete, loadError, messages, pending } = this.conversation;
    if (loadError)
      this.top.replaceChildren(
        describeError(loadError),
        " ",
        el(
          "button.link",
          { type: "button", onclick: () => this.conversation.loadOlder() },
          "Try again",
        ),
      );
    else if (loading) setText(this.top, "Loading…");
    else if (complete && (messages.length || pending.length))
      setText(this.top, `This is where your conversation with ${labelOf(this.partner)} begins.`);
    else if (complete)
      this.top.replaceChildren(
        avatar(this.partner),
        el("p", {}, `Say hello to ${this.partner.displayName}.`),
      );
    else setText(this.top, "");
    this.top.classList.toggle(
      "hello",
      complete && !messages.length && !pending.length && !loadError && !loading,
    );
  }

  /** Find the first message that was unread when the conversation was opened. */
  #findFirstUnread() {
    if (this.#firstUnreadSeq !== null || !this.conversation.loaded) return;
    const received = this.conversation.messages.filter(
      (message) => message.senderId === this.partner.id,
    );
    this.#firstUnreadSeq =
      this.unreadAtFirst && !this.partner.self
        ? (received.at(-Math.min(this.unreadAtFirst, received.length))?.seq ?? 0)
        : 0;
  }

  /** The rows and the lines between them, in order. Rows of removed messages are deleted. */
  #nodes() {
    const { messages, pending } = this.conversation;
    const nodes = [];
    const used = new Set();
    let before = null;
    for (const item of [...messages, ...pending]) {
      const lines = this.#linesBefore(item, before);
      const row = this.#row(item, before, lines.length > 0);
      nodes.push(...lines, row.element);
      this.newest = row.element.dataset.key;
      used.add(this.newest);
      before = item;
    }
    for (const key of this.#rows.keys()) if (!used.has(key)) this.#rows.delete(key);
    this.#updateTabOrder();
    return nodes;
  }

  #linesBefore(item, before) {
    const lines = [];
    if (!before || !isSameDay(before.createdAt, item.createdAt))
      lines.push(this.#line(new Date(item.createdAt).toDateString(), formatDay(item.createdAt)));
    if (item.seq && item.seq === this.#firstUnreadSeq) lines.push(this.#line("new", "New"));
    return lines;
  }

  #line(key, text) {
    if (!this.#lines.has(key))
      this.#lines.set(key, el(key === "new" ? "li.line.new" : "li.line", {}, el("span")));
    const line = this.#lines.get(key);
    setText(line.firstChild, text);
    return line;
  }

  #row(item, before, apart) {
    const sender = item.senderId ?? this.contacts.me.id;
    const mine = sender === this.contacts.me.id;
    const key = mine && item.clientId ? `c${item.clientId}` : `m${item._id}`;
    if (!this.#rows.has(key)) this.#rows.set(key, new MessageRow(key, this.#rowActions()));
    const row = this.#rows.get(key);
    const isClose = before && new Date(item.createdAt) - new Date(before.createdAt) < GROUP_MS;
    const follows = Boolean(
      !apart && isClose && (before.senderId ?? this.contacts.me.id) === sender,
    );
    const read = mine && !this.partner.self && item.seq <= (this.partner.readUpTo ?? 0);
    const names = (id) => this.contacts.get(id)?.displayName ?? id;
    row.draw(item, {
      mine,
      read,
      follows,
      names,
      me: this.contacts.me.id,
      sender: this.partner.displayName,
    });
    return row;
  }

  #rowActions() {
    return {
      react: (message, emoji) => this.workspace.react(message, emoji),
      retry: (pending) => this.workspace.retry(this.conversation, pending),
      discard: (pending) => this.workspace.discard(this.conversation, pending),
    };
  }

  /** Update what depends on the scroll position: read marks, the jump button, older messages. */
  #updateAfterScroll() {
    const { conversation } = this;
    if (this.#followsEnd && !document.hidden) {
      this.#lastSeenSeq = conversation.last;
      this.workspace.markRead(conversation);
    }
    const below = conversation.messages.filter(
      (message) => message.seq > this.#lastSeenSeq && message.senderId === this.partner.id,
    ).length;
    this.jump.hidden = this.#followsEnd;
    this.jump.replaceChildren(
      icon("down"),
      below ? `${below} new` : "",
      el("span.unseen", {}, below ? " messages, go to the end" : "Go to the end"),
    );
    if (
      this.scroller.scrollTop < LOAD_DISTANCE_PX &&
      conversation.loaded &&
      !conversation.complete &&
      !conversation.loadError &&
      this.scroller.clientHeight
    ) {
      conversation.loadOlder();
    }
  }

  // --- scrolling -------------------------------------------------------------------------------------------------------

  #scrolled() {
    this.#followsEnd = this.#isAtEnd();
    this.#updateAfterScroll();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < END_DISTANCE_PX;
  }

  /** Whether the view still follows the end. A scroll event comes one frame after the scroll, and a redraw may happen in between. */
  #checkFollowsEnd() {
    const scrolledUp = this.scroller.scrollTop < this.#endScrollTop && !this.#isAtEnd();
    if (scrolledUp) this.#followsEnd = false;
    return this.#followsEnd;
  }

  #firstVisibleRow() {
    const { top } = this.scroller.getBoundingClientRect();
    return [...this.list.querySelectorAll("li.message")].find(
      (row) => row.getBoundingClientRect().bottom > top,
    );
  }

  #scrollToEnd() {
    this.#followsEnd = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#endScrollTop = this.scroller.scrollTop; // the browser limits the value
  }

  // --- actions ---------------------------------------------------------------------------------------------------------

  #send(text) {
    this.#scrollToEnd();
    this.workspace.send(this.conversation, text);
  }

  #editLast() {
    const mine = (message) => message.senderId === this.contacts.me.id && !message.deletedAt;
    const last = this.conversation.messages.findLast(mine);
    if (last) this.composer.edit(last);
  }

  async #remove(message) {
    const warning = this.partner.self
      ? "This cannot be undone."
      : "It will be deleted for both of you.";
    if (await confirmDialog(`Delete this message? ${warning}`, "Delete"))
      this.workspace.remove(message);
  }

  // --- pointer and keyboard --------------------------------------------------------------------------------------------

  #rowOf(target) {
    return this.#rows.get(target.closest?.("li.message")?.dataset.key);
  }

  #attach(row) {
    this.tools.attach(row, row?.item.senderId === this.contacts.me.id);
  }

  #point(target) {
    const row = this.#rowOf(target);
    const busy = this.tools.element.contains(document.activeElement);
    if (row && !busy) this.#attach(row);
  }

  #focused(target) {
    const row = this.#rowOf(target);
    if (!row) return;
    this.current = row.element.dataset.key;
    this.#updateTabOrder();
    this.#attach(row);
  }

  /** Focus the message: phones do not focus an element that is tapped. */
  #clicked(event) {
    const selecting = !getSelection().isCollapsed;
    if (!selecting && !event.target.closest("button"))
      this.#rowOf(event.target)?.element.focus({ preventScroll: true });
  }

  /** Keep exactly one message in the tab order: the last focused one, or the newest. */
  #updateTabOrder() {
    const key = this.#rows.has(this.current) ? this.current : this.newest;
    for (const [name, row] of this.#rows) row.element.tabIndex = name === key ? 0 : -1;
  }

  /** The arrow keys move between messages; Escape returns to the composer. */
  #key(event) {
    const items = [...this.list.querySelectorAll("li.message")];
    const place = items.indexOf(event.target.closest("li.message"));
    const next = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: items.length - 1 }[
      event.key
    ];
    if (event.key === "Escape") this.composer.focus();
    else if (next !== undefined && place >= 0) {
      event.preventDefault();
      items[Math.max(0, Math.min(next, items.length - 1))].focus();
    }
  }
}
