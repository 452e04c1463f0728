/* The page of a user who is logged in: the list of users, the open conversation, and the connection
   that updates both. */

/** @import { ChatError } from "./format.js" */
/** @import { Handlers } from "./connection.js" */
/** @import { Message, Pending } from "./conversation.js" */
/** @import { Session, User } from "./session.js" */

import { openAccountDialog } from "./account_dialog.js";
import { Api } from "./api.js";
import { Connection } from "./connection.js";
import { Contacts } from "./contacts.js";
import { ContactsView } from "./contacts_view.js";
import { Conversation } from "./conversation.js";
import { ConversationView } from "./conversation_view.js";
import { announce, el, notice, setText } from "./dom.js";
import { describeError } from "./format.js";
import { nameOf } from "./names.js";

const REFRESH_INTERVAL_MS = 30_000; // while the page is visible: an event may have been lost
const RESYNC_SPREAD_MS = 2000; // all clients of a process are told at the same time
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
    /** @type {Map<string, string>} */
    this.drafts = new Map();
    this.closing = new AbortController();

    this.contacts = new Contacts(user, this.api, () => this.draw());
    this.contactsView = new ContactsView(this.contacts, {
      leave,
      openAccount: () => this.#openAccount(),
    });
    this.banner = el("div.connection", { role: "status", hidden: true });
    this.stage = el("main.stage", { "aria-label": "Conversation" });
    this.element = el("div.workspace", {}, this.banner, this.contactsView.element, this.stage);
    this.connection = new Connection(token, this.#handlers());
  }

  open() {
    const { signal } = this.closing;
    addEventListener("hashchange", () => this.#openFromAddress(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#refresh(), {
      signal,
    });
    this.timer = setInterval(() => document.hidden || this.#refresh(), REFRESH_INTERVAL_MS);
    this.#showBannerLater();
    this.#openFromAddress();
    this.#refresh();
  }

  close() {
    this.closing.abort();
    clearInterval(this.timer);
    clearTimeout(this.bannerTimer);
    clearTimeout(this.resyncTimer);
    this.connection.close();
    this.view?.close();
    this.dialog?.close();
  }

  /** @returns {Handlers} */
  #handlers() {
    return {
      connected: () => this.#connected(),
      lost: () => this.#lost(),
      ended: () => this.ended(),
      newMessage: (message) => this.#newMessage(message),
      messageUpdated: (message) => this.#take(message),
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
    this.stale = new Set(this.conversations.values());
    await this.#refresh();
    // not awaited: conversations are independent
    for (const conversation of this.conversations.values()) this.#sendPending(conversation);
  }

  /** Events may have been lost: update the list and the loaded messages, at a random moment soon. */
  #resync() {
    this.stale = new Set(this.conversations.values());
    clearTimeout(this.resyncTimer);
    this.resyncTimer = setTimeout(() => this.#refresh(), Math.random() * RESYNC_SPREAD_MS);
  }

  #lost() {
    this.contacts.lost();
    this.#showBannerLater();
  }

  #showBannerLater() {
    clearTimeout(this.bannerTimer);
    this.bannerTimer = setTimeout(() => {
      setText(this.banner, "No connection. Trying again…");
      this.banner.hidden = false;
    }, BANNER_DELAY_MS);
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
  #take(message) {
    this.conversations.get(this.contacts.partnerOf(message))?.take(message);
    return this.contacts.take(message);
  }

  /** @param {Message} message */
  #newMessage(message) {
    if (this.#take(message) === false || message.senderId === this.me.id) return;
    if (this.contacts.get(message.senderId)?.muted) return;
    const name = nameOf(this.contacts, message.senderId);
    announce(
      message.senderId === this.openId ? `${name}: ${message.text}` : `New message from ${name}.`,
    );
  }

  // --- navigation --------------------------------------------------------------------------------

  /** The URL names the open conversation, `#/alice`, so that the back button and a reload work. */
  #openFromAddress() {
    const id = document.location.hash.match(/^#\/([a-z0-9][a-z0-9_-]{0,31})$/)?.[1] ?? "";
    if (id !== this.openId || !this.view) this.#show(id);
  }

  /** @param {string} id */
  #show(id) {
    if (this.view) this.drafts.set(this.openId, this.view.draft);
    this.view?.close();
    this.openId = id;
    this.view = id ? new ConversationView(this.#conversation(id), this.contacts, this) : null;
    this.stage.replaceChildren(this.view ? this.view.element : nothingOpen());
    this.element.classList.toggle("in-conversation", Boolean(id));
    this.view?.open(this.drafts.get(id) ?? "");
    this.#refreshOpenConversation().catch(() => {});
    if (id && !this.contacts.get(id)?.lastMessage) this.contacts.learn(id);
    this.draw();
  }

  /** @param {string} id */
  #conversation(id) {
    const conversation =
      this.conversations.get(id) ?? new Conversation(this.me.id, id, this.api, () => this.draw());
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
    });
  }

  // --- actions -----------------------------------------------------------------------------------

  /**
   * Show the message at once as pending. The saved message with the same client id replaces it.
   *
   * @param {Conversation} conversation
   * @param {string} text
   */
  send(conversation, text) {
    const clientId = newId();
    /** @type {Pending} */
    const pending = {
      clientId,
      text,
      createdAt: new Date().toISOString(),
      state: "sending",
      error: null,
    };
    conversation.pending.push(pending);
    this.retry(conversation, pending);
  }

  /**
   * Send a pending message, perhaps again. Because of its client id the service saves it only once.
   *
   * @param {Conversation} conversation
   * @param {Pending} pending
   */
  async retry(conversation, pending) {
    Object.assign(pending, { state: "sending", error: null });
    this.draw();
    try {
      this.#take(
        await this.connection.request("sendMessage", {
          receiverId: conversation.other,
          text: pending.text,
          clientId: pending.clientId,
        }),
      );
    } catch (error) {
      Object.assign(pending, { state: "failed", error });
      if (error.code === "unauthenticated") this.ended();
      this.draw();
    }
  }

  /**
   * @param {Conversation} conversation
   * @param {Pending} pending
   */
  discard(conversation, pending) {
    conversation.pending = conversation.pending.filter((one) => one !== pending);
    this.draw();
  }

  /**
   * Send the messages that failed for lack of a connection, one after the other, which keeps their
   * order.
   *
   * @param {Conversation} conversation
   */
  async #sendPending(conversation) {
    for (const pending of [...conversation.pending]) {
      const isDiscarded = !conversation.pending.includes(pending);
      if (!isDiscarded && pending.error?.code === "offline")
        await this.retry(conversation, pending);
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
      this.#take(await this.connection.request(event, payload));
      return true;
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
      else notice(describeError(error));
      return false;
    }
  }

  #openAccount() {
    this.dialog = openAccountDialog(this.me, this.api, {
      deleted: this.deleted,
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
   * Mark the messages of this conversation as read.
   *
   * @param {Conversation} conversation
   */
  markRead(conversation) {
    const partner = this.contacts.get(conversation.other);
    if (!partner?.unread || partner.self || !conversation.last || !this.connection.connected)
      return;
    partner.unread = 0;
    this.connection.emit("markRead", { userId: conversation.other, seq: conversation.last });
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

/** A random client id. `crypto.randomUUID` exists only on HTTPS pages and on localhost. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}
