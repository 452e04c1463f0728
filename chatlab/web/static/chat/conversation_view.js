/* The open conversation: who it is with, the messages, and where one writes. */

import { arrange, el, icon, iconButton, say } from "./dom.js";
import { Composer } from "./composer.js";
import { MessageRow } from "./message_row.js";
import { MessageTools, sure } from "./message_tools.js";
import { avatar, nameOf } from "./people_view.js";
import { dayName, plainly, sameDay } from "./words.js";

const TOGETHER = 5 * 60_000; // ms within which messages of one sender stand close
const NEAR = 400; // px from the top at which older messages are loaded
const BOTTOM = 48; // px from the end that count as the end

export class ConversationView {
  #rows = new Map(); // key -> MessageRow
  #lines = new Map(); // day, or "new" -> line between messages
  #stuck = true; // at the end, and staying there
  #endedAt = 0; // scrollTop after our last scroll to the end
  #seen = 0; // last seq that has been on the screen
  #newFrom = null; // first message that was unread when the conversation was opened

  /** `workspace` does what is asked of a message. */
  constructor(conversation, people, workspace) {
    Object.assign(this, { conversation, people, workspace });
    this.person = people.get(conversation.other) ?? { id: conversation.other, displayName: conversation.other };
    this.unreadAtFirst = this.person.unread ?? 0;
    this.composer = new Composer(this.person.displayName, {
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

  // --- life ------------------------------------------------------------------------------------------------------------

  open(draft) {
    this.composer.set(draft);
    this.watcher = new ResizeObserver(() => this.#staysAtEnd() && this.#toEnd());
    this.watcher.observe(this.scroller);
    if (!this.conversation.loaded) this.conversation.loadOlder();
    this.draw();
    if (!matchMedia("(pointer: coarse)").matches) this.composer.focus(); // on a phone the keyboard would cover half of it
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
    this.jump = el("button.jump", { type: "button", hidden: true, onclick: () => this.#toEnd() });
    this.element = el(
      "section.conversation", {},
      el(
        "header.bar", {},
        el("a.icon-button.back", { href: "#", "aria-label": "Back to the list", title: "Back to the list" }, icon("back")),
        this.face, el("div.who", {}, this.name, this.presence),
      ),
      el("div.middle", {}, this.scroller, this.jump), this.composer.element,
    );
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  draw() {
    this.person = this.people.get(this.conversation.other) ?? this.person;
    const held = this.#staysAtEnd() ? null : this.#firstInSight();
    const place = held?.getBoundingClientRect().top;
    this.#drawHeader();
    this.#drawTop();
    this.#noteNew();
    arrange(this.list, this.#nodes());
    if (this.#stuck) this.#toEnd();
    else if (held?.isConnected) this.scroller.scrollTop += held.getBoundingClientRect().top - place; // what is read does not move
    this.tools.check();
    this.#afterwards();
  }

  #drawHeader() {
    if (this.name.textContent !== nameOf(this.person)) this.#introduce();
    const typing = this.people.typing.has(this.person.id);
    const self = this.person.self;
    say(this.presence, typing ? "typing…" : self ? "Notes only you see" : this.person.online ? "online" : "offline");
    this.presence.classList.toggle("online", Boolean(this.person.online) && !self);
    this.presence.classList.toggle("typing", typing);
  }

  /** Who it is: known at once, or once the list of people has come. */
  #introduce() {
    const { displayName } = this.person;
    say(this.name, nameOf(this.person));
    this.face.replaceChildren(avatar(this.person));
    this.list.setAttribute("aria-label", `Messages with ${displayName}`);
    this.composer.input.setAttribute("aria-label", `Message to ${displayName}`);
  }

  #drawTop() {
    const { loading, complete, trouble, messages, pending } = this.conversation;
    if (trouble) this.top.replaceChildren(plainly(trouble), " ", el("button.link", { type: "button", onclick: () => this.conversation.loadOlder() }, "Try again"));
    else if (loading) say(this.top, "Loading…");
    else if (complete && (messages.length || pending.length)) say(this.top, `This is where your conversation with ${nameOf(this.person)} begins.`);
    else if (complete) this.top.replaceChildren(avatar(this.person), el("p", {}, `Say hello to ${this.person.displayName}.`));
    else say(this.top, "");
    this.top.classList.toggle("hello", complete && !messages.length && !pending.length && !trouble && !loading);
  }

  /** Where what was unread at first begins. */
  #noteNew() {
    if (this.#newFrom !== null || !this.conversation.loaded) return;
    const theirs = this.conversation.messages.filter((message) => message.senderId === this.person.id);
    this.#newFrom = this.unreadAtFirst && !this.person.self ? (theirs.at(-Math.min(this.unreadAtFirst, theirs.length))?.seq ?? 0) : 0;
  }

  /** The rows and the lines between them, in order; rows that are gone are forgotten. */
  #nodes() {
    const { messages, pending } = this.conversation;
    const nodes = [], used = new Set();
    let before = null;
    for (const item of [...messages, ...pending]) {
      const lines = this.#linesBefore(item, before);
      const row = this.#row(item, before, lines.length > 0);
      nodes.push(...lines, row.element);
      used.add((this.newest = row.element.dataset.key));
      before = item;
    }
    for (const key of this.#rows.keys()) if (!used.has(key)) this.#rows.delete(key);
    this.#rove();
    return nodes;
  }

  #linesBefore(item, before) {
    const lines = [];
    if (!before || !sameDay(before.createdAt, item.createdAt)) lines.push(this.#line(new Date(item.createdAt).toDateString(), dayName(item.createdAt)));
    if (item.seq && item.seq === this.#newFrom) lines.push(this.#line("new", "New"));
    return lines;
  }

  #line(key, text) {
    if (!this.#lines.has(key)) this.#lines.set(key, el(key === "new" ? "li.line.new" : "li.line", {}, el("span")));
    const line = this.#lines.get(key);
    say(line.firstChild, text);
    return line;
  }

  #row(item, before, apart) {
    const sender = item.senderId ?? this.people.me.id;
    const mine = sender === this.people.me.id;
    const key = mine && item.clientId ? `c${item.clientId}` : `m${item._id}`;
    if (!this.#rows.has(key)) this.#rows.set(key, new MessageRow(key, this.#rowActs()));
    const row = this.#rows.get(key);
    const close = before && new Date(item.createdAt) - new Date(before.createdAt) < TOGETHER;
    const follows = Boolean(!apart && close && (before.senderId ?? this.people.me.id) === sender);
    const read = mine && !this.person.self && item.seq <= (this.person.readUpTo ?? 0);
    const names = (id) => this.people.get(id)?.displayName ?? id;
    row.draw(item, { mine, read, follows, names, me: this.people.me.id, speaks: this.person.displayName });
    return row;
  }

  #rowActs() {
    return {
      react: (message, emoji) => this.workspace.react(message, emoji),
      retry: (waiting) => this.workspace.retry(this.conversation, waiting),
      discard: (waiting) => this.workspace.discard(this.conversation, waiting),
    };
  }

  /** What being on the screen brings with it: read marks, the jump button, older messages. */
  #afterwards() {
    const { conversation } = this;
    if (this.#stuck && !document.hidden) {
      this.#seen = conversation.last;
      this.workspace.markRead(conversation);
    }
    const below = conversation.messages.filter((message) => message.seq > this.#seen && message.senderId === this.person.id).length;
    this.jump.hidden = this.#stuck;
    this.jump.replaceChildren(icon("down"), below ? `${below} new` : "", el("span.unseen", {}, below ? " messages, go to the end" : "Go to the end"));
    if (this.scroller.scrollTop < NEAR && conversation.loaded && !conversation.complete && !conversation.trouble && this.scroller.clientHeight) {
      conversation.loadOlder();
    }
  }

  // --- scrolling -------------------------------------------------------------------------------------------------------

  #scrolled() {
    this.#stuck = this.#isAtEnd();
    this.#afterwards();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < BOTTOM;
  }

  /** Whether the view still follows the end. A scroll event comes a frame after its scroll, so a redraw in between must not rely on it. */
  #staysAtEnd() {
    const scrolledUp = this.scroller.scrollTop < this.#endedAt && !this.#isAtEnd();
    if (scrolledUp) this.#stuck = false;
    return this.#stuck;
  }

  #firstInSight() {
    const { top } = this.scroller.getBoundingClientRect();
    return [...this.list.querySelectorAll("li.message")].find((row) => row.getBoundingClientRect().bottom > top);
  }

  #toEnd() {
    this.#stuck = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#endedAt = this.scroller.scrollTop; // the browser sets less than it was asked for
  }

  // --- acting ----------------------------------------------------------------------------------------------------------

  #send(text) {
    this.#toEnd();
    this.workspace.send(this.conversation, text);
  }

  #editLast() {
    const mine = (message) => message.senderId === this.people.me.id && !message.deletedAt;
    const last = this.conversation.messages.findLast(mine);
    if (last) this.composer.edit(last);
  }

  async #remove(message) {
    const both = this.person.self ? "It will be gone for good." : "It will be gone for both of you.";
    if (await sure(`Delete this message? ${both}`, "Delete")) this.workspace.remove(message);
  }

  // --- pointer and keyboard --------------------------------------------------------------------------------------------

  #rowOf(target) {
    return this.#rows.get(target.closest?.("li.message")?.dataset.key);
  }

  #attach(row) {
    this.tools.attach(row, row?.item.senderId === this.people.me.id);
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
    this.#rove();
    this.#attach(row);
  }

  /** Phones do not focus what is tapped. */
  #clicked(event) {
    const selecting = !getSelection().isCollapsed;
    if (!selecting && !event.target.closest("button")) this.#rowOf(event.target)?.element.focus({ preventScroll: true });
  }

  /** One message is in the tab order: the one that had the focus, else the last. */
  #rove() {
    const key = this.#rows.has(this.current) ? this.current : this.newest;
    for (const [name, row] of this.#rows) row.element.tabIndex = name === key ? 0 : -1;
  }

  /** Arrows go from message to message, Escape back to writing. */
  #key(event) {
    const items = [...this.list.querySelectorAll("li.message")];
    const place = items.indexOf(event.target.closest("li.message"));
    const next = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Escape") this.composer.focus();
    else if (next !== undefined && place >= 0) {
      event.preventDefault();
      items[Math.max(0, Math.min(next, items.length - 1))].focus();
    }
  }
}
