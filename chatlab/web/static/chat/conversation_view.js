/* The open conversation: its header, its messages and the composer. */

/** @import { Contact, Contacts } from "./contacts.js" */
/** @import { Conversation, Message } from "./conversation.js" */
/** @import { MessageRow } from "./message_row.js" */
/** @import { Draft } from "./unsent.js" */
/** @import { Workspace } from "./workspace.js" */

import { Composer } from "./composer.js";
import { avatar } from "./contacts_view.js";
import { el, hasFocus, icon, notice, setChildren, setText } from "./dom.js";
import { describeError } from "./format.js";
import { MessageRows } from "./message_rows.js";
import { confirmDialog, MessageTools } from "./message_tools.js";
import { nameTag, nameText, showName } from "./names.js";
import { PartnerTools } from "./partner_tools.js";
import { SearchPanel } from "./search_panel.js";
import { ShownMessages } from "./shown_messages.js";

const SHOW_DISTANCE_PX = 1200; // from the first or the last row: more of the loaded messages are shown
const LOAD_DISTANCE_PX = 400; // from the first message: older ones are loaded
const END_DISTANCE_PX = 48; // from the end: this still counts as the end
const FOUND_MS = 2500; // the message that a link leads to is marked for this time

export class ConversationView {
  #followsEnd = true; // show new messages at the end
  #endScrollTop = 0; // scrollTop after the last scroll to the end
  #unread = 0; // when the conversation was opened
  #newestSeq = 0; // when they were counted
  #isCounted = false; // the unread messages are known
  #below = -1; // unseen messages, as the jump button shows them
  closing = new AbortController();

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
  jump = el("button.jump", { type: "button", hidden: true, onclick: () => this.#goToEnd() });

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
    this.shown = new ShownMessages(conversation);
    this.rows = new MessageRows(this);
    this.search = new SearchPanel(conversation, contacts, {
      show: (seq) => this.show(seq),
      closed: () => this.composer.focus(),
    });
    this.composer = new Composer(nameText(this.partner), {
      send: (draft) => this.#send(draft),
      edit: (message, text) => workspace.edit(message, text),
      keepDraft: (draft) => workspace.unsent.setDraft(conversation.other, draft),
      nameOf: (message) => this.rows.senderOf(message),
      typing: (typing) => workspace.typing(conversation, typing),
      editLast: () => this.#editLast(),
    });
    this.tools = new MessageTools({
      react: (message, emoji) => workspace.react(message, emoji),
      reply: (message) => this.composer.reply(message),
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
        this.search.button,
        this.partnerTools.element,
      ),
      this.search.element,
      el("div.middle", {}, this.scroller, this.jump),
      this.composer.element,
      this.partnerTools.bar,
    );
  }

  /** @param {Draft} draft */
  open(draft) {
    this.composer.open(draft);
    addEventListener("focus", () => this.draw(), { signal: this.closing.signal });
    this.watcher = new ResizeObserver(() => this.#checkFollowsEnd() && this.#scrollToEnd());
    this.watcher.observe(this.scroller);
    if (!this.conversation.loaded) this.conversation.loadOlder();
    this.draw();
    this.composer.focusUnlessTouch();
  }

  close() {
    this.watcher?.disconnect();
    this.closing.abort();
    clearTimeout(this.foundTimer);
    this.composer.close();
  }

  // --- drawing -----------------------------------------------------------------------------------

  draw() {
    this.partner = this.contacts.get(this.conversation.other) ?? this.partner;
    const anchor = this.#checkFollowsEnd() ? null : this.#firstVisibleRow();
    const top = anchor?.getBoundingClientRect().top;
    this.#drawHeader();
    this.#drawTop();
    const firstUnread = this.#findFirstUnread();
    if (firstUnread) this.#showAround(firstUnread);
    if (this.#followsEnd) this.shown.followEnd();
    const hadFocus = this.list.contains(document.activeElement);
    setChildren(this.list, this.rows.nodes());
    if (hadFocus && !this.list.contains(document.activeElement)) this.composer.focus();
    if (firstUnread) this.#scrollTo(this.rows.newLine);
    else if (this.#followsEnd) this.#scrollToEnd();
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
    const { loading, loadError, messages, pending } = this.conversation;
    const complete = this.shown.reachesBeginning;
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

  /**
   * Find the first message that was unread when the conversation was opened, once the list of users
   * has been loaded. Returns its seq, only once.
   */
  #findFirstUnread() {
    const { shown, contacts, conversation } = this;
    if (!contacts.loaded || !conversation.loaded) return 0;
    const partner = contacts.get(conversation.other);
    if (!this.#isCounted) {
      this.#isCounted = true;
      this.#unread = partner?.self ? 0 : (partner?.unread ?? 0);
      this.#newestSeq = partner?.lastMessage?.seq ?? 0;
    }
    if (shown.firstUnreadSeq === null) return shown.findFirstUnread(this.#unread, this.#newestSeq);
    // What arrives while the user is elsewhere is new when the user comes back.
    const unseen = hasFocus() ? undefined : shown.unseen()[0];
    if (unseen && shown.firstUnreadSeq <= shown.lastSeenSeq) shown.firstUnreadSeq = unseen.seq;
    return 0;
  }

  /** Update what depends on the scroll position: read marks, the jump button, older messages. */
  #updateAfterScroll() {
    const { conversation, shown } = this;
    this.#markSeen();
    const { scrollTop, scrollHeight, clientHeight } = this.scroller; // before anything changes
    this.jump.hidden = this.#followsEnd;
    this.#drawJump(shown.unseen().length);
    if (!clientHeight || !conversation.loaded) return;
    if (scrollTop < SHOW_DISTANCE_PX && shown.extendUp()) this.workspace.draw();
    else if (scrollTop < LOAD_DISTANCE_PX) {
      if (!conversation.complete && !conversation.loadError) conversation.loadOlder();
    } else if (scrollHeight - scrollTop - clientHeight < SHOW_DISTANCE_PX && shown.extendDown())
      this.workspace.draw();
  }

  /** @param {number} below */
  #drawJump(below) {
    if (below === this.#below) return;
    this.#below = below;
    this.jump.replaceChildren(
      icon("down"),
      below ? `${below} new` : "",
      el("span.unseen", {}, below ? " messages, go to the end" : "Go to the end"),
    );
  }

  /** Mark as read what is on the screen, if the user looks at this page. */
  #markSeen() {
    if (this.shown.firstUnreadSeq === null || !hasFocus()) return;
    if (!this.partner.unread && !this.shown.unseen().length) return;
    const seq = this.#followsEnd
      ? this.conversation.last
      : this.rows.lastSeqAbove(this.scroller.getBoundingClientRect().bottom);
    this.shown.lastSeenSeq = Math.max(this.shown.lastSeenSeq, seq);
    this.workspace.markRead(this.conversation, seq);
  }

  // --- scrolling ---------------------------------------------------------------------------------

  #scrolled() {
    this.#followsEnd = this.#isAtEnd();
    this.#updateAfterScroll();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return this.shown.reachesEnd && scrollHeight - scrollTop - clientHeight < END_DISTANCE_PX;
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

  #followEnd() {
    this.#followsEnd = true;
    this.#endScrollTop = 0; // the user has not scrolled up from here
  }

  #goToEnd() {
    this.#followEnd();
    this.draw();
    this.composer.focusUnlessTouch();
  }

  /** @param {number} seq */
  #showAround(seq) {
    this.#followsEnd = false;
    this.shown.around(seq);
  }

  /**
   * Scroll so that this element is a little below the top. It may be near the end.
   *
   * @param {Element | undefined} node
   */
  #scrollTo(node) {
    if (!node) return this.#scrollToEnd();
    const { top, height } = this.scroller.getBoundingClientRect();
    this.scroller.scrollTop += node.getBoundingClientRect().top - top - height / 5;
    this.#endScrollTop = 0;
    this.#followsEnd = this.#isAtEnd();
  }

  /**
   * Show the message with this id, and mark it for a moment.
   *
   * @param {string} id
   */
  async showMessage(id) {
    const { conversation } = this;
    const known = conversation.original(id);
    try {
      await this.show((known ?? (await conversation.api.message(conversation.other, id))).seq);
    } catch (error) {
      notice(describeError(error));
    }
  }

  /**
   * Show the message with this number, and mark it for a moment.
   *
   * @param {number} seq
   */
  async show(seq) {
    await this.conversation.loadBackTo(seq);
    if (this.conversation.loadError) throw this.conversation.loadError;
    if (this.closing.signal.aborted) return;
    this.shown.firstUnreadSeq ??= 0;
    this.#showAround(seq);
    this.draw();
    const row = this.rows.withSeq(seq);
    this.#scrollTo(row?.element);
    this.#updateAfterScroll();
    row?.element.focus({ preventScroll: true });
    this.list.querySelector(".found")?.classList.remove("found");
    row?.element.classList.add("found");
    clearTimeout(this.foundTimer);
    this.foundTimer = setTimeout(() => row?.element.classList.remove("found"), FOUND_MS);
  }

  // --- actions -----------------------------------------------------------------------------------

  /** @param {Draft} draft */
  #send(draft) {
    this.#followEnd();
    this.workspace.outbox.send(this.conversation, draft);
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
    const row = this.rows.of(target);
    const busy = this.tools.element.contains(document.activeElement);
    if (row && !busy) this.#attach(row);
  }

  /** @param {EventTarget | null} target */
  #focused(target) {
    const row = this.rows.of(target);
    if (!row) return;
    this.rows.current = row.key;
    this.rows.updateTabOrder();
    this.#attach(row);
  }

  /**
   * Focus the message: phones do not focus an element that is tapped.
   *
   * @param {MouseEvent & {target: Element}} event
   */
  #clicked(event) {
    const selecting = !getSelection()?.isCollapsed;
    if (!selecting && !event.target.closest("button, a"))
      this.rows.of(event.target)?.element.focus({ preventScroll: true });
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
