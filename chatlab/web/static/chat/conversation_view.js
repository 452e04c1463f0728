/* The open conversation: its header, its messages and the composer. */

/** @import { Contact, Contacts } from "./contacts.js" */
/** @import { Conversation, Item, Message } from "./conversation.js" */
/** @import { Workspace } from "./workspace.js" */

import { Composer } from "./composer.js";
import { avatar } from "./contacts_view.js";
import { el, icon, setChildren, setText } from "./dom.js";
import { describeError, formatDay, isSameDay } from "./format.js";
import { MessageRow } from "./message_row.js";
import { confirmDialog, MessageTools } from "./message_tools.js";
import { nameOf, nameTag, nameText, showName } from "./names.js";
import { PartnerTools } from "./partner_tools.js";

const GROUP_MS = 5 * 60_000; // messages of one sender within this time are shown as a group
const LOAD_DISTANCE_PX = 400; // from the top: older messages are loaded
const END_DISTANCE_PX = 48; // from the end: this still counts as the end

export class ConversationView {
  /** @type {Map<string, MessageRow>} */
  #rows = new Map();
  /** @type {Map<string, HTMLElement>} */
  #lines = new Map(); // day, or "new" -> line between messages
  #followsEnd = true; // show new messages at the end
  #endScrollTop = 0; // scrollTop after the last scroll to the end
  #lastSeenSeq = 0; // the last message that was on the screen
  newest = ""; // key of the last message
  current = ""; // key of the last focused one
  /** @type {number | null} */
  #firstUnreadSeq = null; // when the conversation was opened; 0: none; null: not known yet

  face = el("span.face");
  name = el("h2");
  presence = el("p.presence", { "aria-live": "polite" });
  top = el("div.top");
  list = el("ol.messages", {
    role: "list",
    onkeydown: (event) => this.#key(event),
    onpointerover: (event) => event.pointerType === "mouse" && this.#point(event.target),
    onpointerleave: ({ currentTarget }) => this.#left(currentTarget, document.activeElement),
    onfocusin: (event) => this.#focused(event.target),
    onfocusout: ({ currentTarget, relatedTarget }) => this.#left(currentTarget, relatedTarget),
    onclick: (event) => this.#clicked(event),
  });
  scroller = el("div.scroller", { onscroll: () => this.#scrolled() }, this.top, this.list);
  jump = el("button.jump", { type: "button", hidden: true, onclick: () => this.#scrollToEnd() });

  /**
   * @param {Conversation} conversation
   * @param {Contacts} contacts
   * @param {Workspace} workspace - sends and changes messages
   */
  constructor(conversation, contacts, workspace) {
    this.conversation = conversation;
    this.contacts = contacts;
    this.workspace = workspace;
    /** @type {Pick<Contact, "id" | "displayName"> & Partial<Contact>} */
    this.partner = contacts.get(conversation.other) ?? {
      id: conversation.other,
      displayName: conversation.other,
    };
    this.unreadAtFirst = this.partner.unread ?? 0;
    this.composer = new Composer(nameText(this.partner), {
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
    this.partnerTools = new PartnerTools({
      mute: (id, muted) => workspace.setList(id, "mute", muted),
      block: (id, blocked) => workspace.setList(id, "block", blocked),
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
        this.partnerTools.element,
      ),
      el("div.middle", {}, this.scroller, this.jump),
      this.composer.element,
      this.partnerTools.bar,
    );
  }

  get draft() {
    return this.composer.draft;
  }

  /** @param {string} draft */
  open(draft) {
    this.composer.set(draft);
    this.watcher = new ResizeObserver(() => this.#checkFollowsEnd() && this.#scrollToEnd());
    this.watcher.observe(this.scroller);
    if (!this.conversation.loaded) this.conversation.loadOlder();
    this.draw();
    // on a phone the keyboard would hide the messages
    if (!matchMedia("(pointer: coarse)").matches) this.composer.focus();
  }

  close() {
    this.watcher?.disconnect();
    this.composer.close();
  }

  // --- drawing -----------------------------------------------------------------------------------

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
      // the message being read does not move
      this.scroller.scrollTop += anchor.getBoundingClientRect().top - (top ?? 0);
    this.tools.update();
    this.#updateAfterScroll();
  }

  #drawHeader() {
    if (showName(this.name, this.partner)) this.#drawPartner();
    this.partnerTools.draw(this.partner);
    this.composer.element.hidden = !this.partnerTools.bar.hidden;
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

  /**
   * Show the avatar, and name the partner for screen readers. The name is known at once, or when the
   * list of users has been loaded.
   */
  #drawPartner() {
    const name = nameText(this.partner);
    this.face.replaceChildren(avatar(this.partner));
    this.list.setAttribute("aria-label", `Messages with ${name}`);
    this.composer.input.setAttribute("aria-label", `Message to ${name}`);
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
      this.top.replaceChildren(
        "This is where your conversation with ",
        nameTag(this.partner),
        " begins.",
      );
    else if (complete)
      this.top.replaceChildren(
        avatar(this.partner),
        el("p", {}, "Say hello to ", nameTag(this.partner), "."),
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
    /** @type {HTMLElement[]} */
    const nodes = [];
    const used = new Set();
    /** @type {Item | null} */
    let before = null;
    for (const item of [...messages, ...pending]) {
      const lines = this.#linesBefore(item, before);
      const row = this.#row(item, before, lines.length > 0);
      nodes.push(...lines, row.element);
      this.newest = row.key;
      used.add(row.key);
      before = item;
    }
    for (const key of this.#rows.keys()) if (!used.has(key)) this.#rows.delete(key);
    this.#updateTabOrder();
    return nodes;
  }

  /**
   * @param {Item} item
   * @param {Item | null} before
   */
  #linesBefore(item, before) {
    const lines = [];
    if (!before || !isSameDay(before.createdAt, item.createdAt))
      lines.push(this.#line(new Date(item.createdAt).toDateString(), formatDay(item.createdAt)));
    if (item.seq && item.seq === this.#firstUnreadSeq) lines.push(this.#line("new", "New"));
    return lines;
  }

  /**
   * @param {string} key
   * @param {string} text
   */
  #line(key, text) {
    const line =
      this.#lines.get(key) ?? el(key === "new" ? "li.line.new" : "li.line", {}, el("span"));
    this.#lines.set(key, line);
    setText(line.children[0], text);
    return line;
  }

  /**
   * @param {Item} item
   * @param {Item | null} before
   * @param {boolean} apart
   */
  #row(item, before, apart) {
    const sender = item.senderId ?? this.contacts.me.id;
    const mine = sender === this.contacts.me.id;
    const key = mine && item.clientId ? `c${item.clientId}` : `m${item._id}`;
    const row = this.#rows.get(key) ?? new MessageRow(key, this.#rowActions());
    this.#rows.set(key, row);
    const isClose = before && Date.parse(item.createdAt) - Date.parse(before.createdAt) < GROUP_MS;
    const follows = Boolean(
      !apart && isClose && (before.senderId ?? this.contacts.me.id) === sender,
    );
    const read =
      mine && !this.partner.self && (item.seq ?? Infinity) <= (this.partner.readUpTo ?? 0);
    const names = (/** @type {string} */ id) => nameOf(this.contacts, id);
    row.draw(item, {
      mine,
      read,
      follows,
      names,
      me: this.contacts.me.id,
      sender: nameText(this.partner),
    });
    return row;
  }

  /** @returns {MessageRow["actions"]} */
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

  // --- scrolling ---------------------------------------------------------------------------------

  #scrolled() {
    this.#followsEnd = this.#isAtEnd();
    this.#updateAfterScroll();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < END_DISTANCE_PX;
  }

  /**
   * Whether the view still follows the end. A scroll event comes one frame after the scroll, and a
   * redraw may happen in between.
   */
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

  // --- actions -----------------------------------------------------------------------------------

  /** @param {string} text */
  #send(text) {
    this.#scrollToEnd();
    this.workspace.send(this.conversation, text);
  }

  #editLast() {
    const mine = (/** @type {Message} */ message) =>
      message.senderId === this.contacts.me.id && !message.deletedAt;
    const last = this.conversation.messages.findLast(mine);
    if (last) this.composer.edit(last);
  }

  /** @param {Message} message */
  async #remove(message) {
    const warning = this.partner.self
      ? "This cannot be undone."
      : "It will be deleted for both of you.";
    if (await confirmDialog(`Delete this message? ${warning}`, "Delete"))
      this.workspace.remove(message);
  }

  // --- pointer and keyboard ----------------------------------------------------------------------

  /** @param {any} target */
  #rowOf(target) {
    return this.#rows.get(target.closest?.("li.message")?.dataset.key);
  }

  /** @param {MessageRow | undefined} row */
  #attach(row) {
    this.tools.attach(row, row?.item?.senderId === this.contacts.me.id);
  }

  /**
   * Hide the toolbar if the focus is outside the list.
   *
   * @param {Node} list
   * @param {Node | null} focus
   */
  #left(list, focus) {
    if (!list.contains(focus)) this.tools.detach();
  }

  /** @param {EventTarget | null} target */
  #point(target) {
    const row = this.#rowOf(target);
    const busy = this.tools.element.contains(document.activeElement);
    if (row && !busy) this.#attach(row);
  }

  /** @param {EventTarget | null} target */
  #focused(target) {
    const row = this.#rowOf(target);
    if (!row) return;
    this.current = row.key;
    this.#updateTabOrder();
    this.#attach(row);
  }

  /**
   * Focus the message: phones do not focus an element that is tapped.
   *
   * @param {MouseEvent & {target: Element}} event
   */
  #clicked(event) {
    const selecting = !getSelection()?.isCollapsed;
    if (!selecting && !event.target.closest("button"))
      this.#rowOf(event.target)?.element.focus({ preventScroll: true });
  }

  /** Keep exactly one message in the tab order: the last focused one, or the newest. */
  #updateTabOrder() {
    const key = this.#rows.has(this.current) ? this.current : this.newest;
    for (const [name, row] of this.#rows) row.element.tabIndex = name === key ? 0 : -1;
  }

  /**
   * The arrow keys move between messages; Escape returns to the composer.
   *
   * @param {KeyboardEvent & {target: Element}} event
   */
  #key(event) {
    const items = /** @type {HTMLElement[]} */ ([...this.list.querySelectorAll("li.message")]);
    const place = items.findIndex((item) => item.contains(event.target));
    /** @type {number | undefined} */
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
