/* The page of a user who is logged in: the list of users, the open conversation, and the connection
   that updates both. */

/** @import { Handlers } from "./connection.js" */
/** @import { Message } from "./conversation.js" */
/** @import { Session, User } from "./session.js" */

import { openAccountDialog } from "./account_dialog.js";
import { Api } from "./api.js";
import { Connection } from "./connection.js";
import { Contacts } from "./contacts.js";
import { ContactsView } from "./contacts_view.js";
import { Conversation } from "./conversation.js";
import { ConversationView } from "./conversation_view.js";
import { announce, el, notice, setText } from "./dom.js";
import { refuseFiles } from "./files.js";
import { describeError, plainText } from "./format.js";
import { addKeys } from "./keyboard.js";
import { nameOf } from "./names.js";
import { Notifier } from "./notifier.js";
import { Outbox } from "./outbox.js";
import { Unsent } from "./unsent.js";

const REFRESH_INTERVAL_MS = 30_000; // while the page is visible: an event may have been lost
const RESYNC_SPREAD_MS = 2000; // all clients of a process get the event at the same time
const ADDRESS = /^#\/([a-z0-9][a-z0-9_-]{0,31})(?:\/([0-9a-f]{24}))?$/;
const BANNER_DELAY_MS = 1000; // a shorter interruption is not shown

export class Workspace {
  /**
   * @param {Session} session
   * @param {object} handlers
   * @param {() => void} handlers.leave - logs out
   * @param {() => void} handlers.ended - the service has ended the session
   * @param {() => void} handlers.deleted - the account has been deleted
   * @param {(session: Session) => void} handlers.renamed
   */
  constructor({ user, token }, { leave, ended, deleted, renamed }) {
    this.me = user;
    this.token = token;
    this.api = new Api(token);
    this.ended = ended;
    this.deleted = deleted;
    this.renamed = renamed;
    /** @type {Map<string, Conversation>} */
    this.conversations = new Map();
    /** @type {Set<Conversation>} */
    this.stale = new Set(); // conversations that may have missed events
    this.openId = ""; // of the other user; empty: no conversation is open
    /** @type {ConversationView | null} */
    this.view = null;
    this.unsent = new Unsent(user.id);
    this.notifier = new Notifier(user.id);
    this.outbox = new Outbox(this);
    this.closing = new AbortController();

    this.contacts = new Contacts(user, this.api, () => this.draw());
    this.contactsView = new ContactsView(this.contacts, {
      leave,
      openAccount: () => this.#openAccount(),
    });
    this.banner = el("div.connection", { role: "status", hidden: true });
    this.stage = el("section.stage", { "aria-label": "Conversation" });
    // A phone shows the list or the conversation, so both are parts of the main landmark.
    this.element = el(
      "main.workspace",
      {},
      el("h1.unseen", {}, "chatlab"),
      this.banner,
      this.contactsView.element,
      this.stage,
    );
    this.connection = new Connection(token, this.#handlers());
  }

  open() {
    const { signal } = this.closing;
    addEventListener("hashchange", () => this.#openFromAddress(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#refresh(), {
      signal,
    });
    refuseFiles(signal);
    addKeys(this.contactsView, () => this.view?.search.open(), signal);
    this.#takeUnsent();
    this.unsent.onChangeInOtherTab(() => this.#takeUnsent(), signal);
    this.timer = setInterval(() => document.hidden || this.#refresh(), REFRESH_INTERVAL_MS);
    this.#showBannerLater();
    this.#openFromAddress();
    this.#refresh();
  }

  close() {
    this.closing.abort();
    this.notifier.showUnread(0);
    clearInterval(this.timer);
    clearTimeout(this.bannerTimer);
    clearTimeout(this.resyncTimer);
    this.outbox.close();
    this.connection.close();
    this.view?.close();
    this.dialog?.close();
  }

  /** @returns {Handlers} */
  #handlers() {
    return {
      connected: () => this.#connected(),
      lost: (isCertain) => this.#lost(isCertain),
      ended: () => this.ended(),
      newMessage: (message) => this.#newMessage(message),
      messageUpdated: (message) => this.take(message),
      messagesRead: (read) => this.contacts.takeRead(read),
      typing: ({ userId, typing }) => this.contacts.setTyping(userId, typing),
      onlineUsers: (ids) => this.contacts.setOnline(ids),
      presence: ({ userId, online }) => this.contacts.update(userId, { online }),
      resync: () => this.#resync(),
    };
  }

  // --- the connection ----------------------------------------------------------------------------

  /**
   * After a new connection: reload the list, catch up in the open conversation, send pending
   * messages.
   */
  async #connected() {
    clearTimeout(this.bannerTimer);
    this.banner.hidden = true;
    this.draw();
    this.stale = new Set(this.conversations.values());
    for (const conversation of this.stale) conversation.markedSeq = 0; // a mark may have been lost
    await this.#refresh();
    this.outbox.sendAll();
  }

  /** Events may have been lost: update the list and the loaded messages, at a random moment soon. */
  #resync() {
    this.stale = new Set(this.conversations.values());
    clearTimeout(this.resyncTimer);
    this.resyncTimer = setTimeout(() => this.#refresh(), Math.random() * RESYNC_SPREAD_MS);
  }

  /** @param {boolean} isCertain */
  #lost(isCertain) {
    this.contacts.lost();
    if (isCertain) this.#showBanner();
    else this.#showBannerLater();
  }

  #showBannerLater() {
    clearTimeout(this.bannerTimer);
    this.bannerTimer = setTimeout(() => this.#showBanner(), BANNER_DELAY_MS);
  }

  #showBanner() {
    clearTimeout(this.bannerTimer);
    setText(this.banner, "No connection. Trying again…");
    this.banner.hidden = false;
  }

  async #refresh() {
    try {
      await Promise.all([this.contacts.refresh(), this.#refreshOpenConversation()]);
      this.#takeNewest();
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
    }
  }

  /** The list may have a newer message than the open conversation. */
  #takeNewest() {
    const conversation = this.conversations.get(this.openId);
    const newest = this.contacts.get(this.openId)?.lastMessage;
    if (conversation && newest) conversation.take(newest);
  }

  async #refreshOpenConversation() {
    const conversation = this.conversations.get(this.openId);
    if (!conversation || !this.stale.delete(conversation)) return;
    try {
      await conversation.refresh();
    } catch (error) {
      this.stale.add(conversation);
      throw error;
    }
  }

  // --- events ------------------------------------------------------------------------------------

  /** @param {Message} message */
  take(message) {
    this.conversations.get(this.contacts.partnerOf(message))?.take(message);
    return this.contacts.take(message);
  }

  /** @param {Message} message */
  #newMessage(message) {
    if (this.take(message) === false || message.senderId === this.me.id) return;
    if (this.contacts.get(message.senderId)?.muted) return;
    const name = nameOf(this.contacts, message.senderId);
    announce(
      message.senderId === this.openId ? `${name}: ${message.text}` : `New message from ${name}.`,
    );
    this.notifier.notify(name, plainText(message), `#/${message.senderId}`);
  }

  // --- navigation --------------------------------------------------------------------------------

  /**
   * The URL names the open conversation, `#/alice`, so that the back button and a reload work. It
   * may name a message too: `#/alice/0123456789abcdef01234567`.
   */
  #openFromAddress() {
    const [, id = "", messageId] = document.location.hash.match(ADDRESS) ?? [];
    if (id !== this.openId || !this.view) this.#show(id);
    if (messageId) this.view?.showMessage(messageId);
  }

  /** @param {string} id */
  #show(id) {
    this.view?.close();
    const lastId = this.openId;
    this.openId = id;
    this.view = id ? new ConversationView(this.#conversation(id), this.contacts, this) : null;
    this.stage.replaceChildren(this.view ? this.view.element : nothingOpen());
    this.element.classList.toggle("in-conversation", Boolean(id));
    this.view?.open(this.unsent.draft(id));
    if (!id) this.contactsView.focus(lastId);
    this.#refreshOpenConversation().catch(() => {});
    if (id && !this.contacts.get(id)?.lastMessage) this.contacts.learn(id);
    this.draw();
  }

  /** @param {string} id */
  #conversation(id) {
    const conversation =
      this.conversations.get(id) ??
      new Conversation(this.me.id, id, this.api, this.unsent, () => this.draw());
    this.conversations.set(id, conversation);
    return conversation;
  }

  /** Draw once after all changes of the current task. */
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    queueMicrotask(() => {
      this.drawing = false;
      if (this.closing.signal.aborted) return;
      this.contactsView.draw(this.openId);
      this.view?.draw();
      const { unread } = this.contacts;
      document.title = unread ? `(${unread}) chatlab` : "chatlab";
      this.notifier.showUnread(unread);
    });
  }

  // --- actions -----------------------------------------------------------------------------------

  /** Show the stored messages that wait to be sent. Another tab may have changed them. */
  #takeUnsent() {
    const queue = this.unsent.queue();
    for (const id of new Set([...this.conversations.keys(), ...queue.map(({ other }) => other)])) {
      const stored = queue.filter(({ other }) => other === id).map(({ pending }) => pending);
      this.#conversation(id).takeStored(stored);
    }
  }

  /**
   * @param {Message} message
   * @param {string} text
   */
  edit(message, text) {
    return this.#change("editMessage", { messageId: message._id, text });
  }

  /** @param {Message} message */
  remove(message) {
    return this.#change("deleteMessage", { messageId: message._id });
  }

  /**
   * @param {Message} message
   * @param {string} emoji
   */
  react(message, emoji) {
    const mine = message.reactions[emoji]?.includes(this.me.id);
    return this.#change(mine ? "removeReaction" : "addReaction", { messageId: message._id, emoji });
  }

  /**
   * Change a message. Returns whether it was changed; shows the error otherwise.
   *
   * @param {string} event
   * @param {object} payload
   */
  async #change(event, payload) {
    try {
      this.take(await this.connection.request(event, payload));
      return true;
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
      else notice(describeError(error));
      return false;
    }
  }

  #openAccount() {
    this.dialog = openAccountDialog(this.me, this.api, this.notifier, {
      deleted: () => {
        this.unsent.forgetAll();
        this.deleted();
      },
      renamed: (user) => {
        this.rename(user);
        this.renamed({ user, token: this.token });
      },
    });
  }

  /**
   * Show a new display name of mine.
   *
   * @param {User} me
   */
  rename(me) {
    this.me = this.contacts.me = me;
    this.contacts.update(me.id, { displayName: me.displayName });
  }

  /**
   * Block or mute a user, or end that.
   *
   * @param {string} id
   * @param {"block" | "mute"} what
   * @param {boolean} on
   */
  async setList(id, what, on) {
    try {
      await this.api.setList(id, what, on);
      this.contacts.update(id, what === "block" ? { blocked: on } : { muted: on });
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
      else notice(describeError(error));
    }
  }

  /**
   * Mark the messages of this conversation as read, up to this one.
   *
   * @param {Conversation} conversation
   * @param {number} seq
   */
  markRead(conversation, seq) {
    const { other } = conversation;
    const partner = this.contacts.get(other);
    if (!partner?.unread || partner.self || !this.connection.connected) return;
    if (seq > conversation.markedSeq) {
      conversation.markedSeq = seq;
      this.connection.emit("markRead", { userId: other, seq });
    }
    // The list may be older than the mark.
    const left = conversation.receivedAfter(conversation.markedSeq).length;
    if (left >= partner.unread) return;
    partner.unread = left;
    this.draw();
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} typing
   */
  typing(conversation, typing) {
    if (conversation.other !== this.me.id)
      this.connection.emit("typing", { receiverId: conversation.other, typing });
  }
}

function nothingOpen() {
  return el(
    "div.empty",
    {},
    el("img", { src: "static/chat/icon.svg", alt: "", width: "64", height: "64" }),
    el("h2", {}, "Choose a user to chat with"),
    el("p", {}, "Your conversations are on the left. New messages appear at once."),
  );
}
