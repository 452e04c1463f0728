/* The chat of somebody who is logged in: the list of people, the open conversation, and the live connection that feeds both. */

import { announce, el, notice, say } from "./dom.js";
import { Conversation } from "./conversation.js";
import { ConversationView } from "./conversation_view.js";
import { Door } from "./door.js";
import { Live } from "./live.js";
import { People } from "./people.js";
import { PeopleView } from "./people_view.js";
import { plainly } from "./words.js";

const LOOK_AGAIN = 30_000; // ms between two looks at the list while the page is seen: an event may have been lost

export class Workspace {
  /** `session` is `{user, token}`; `leave` logs out, `ended` is for a session that the service has ended. */
  constructor({ user, token }, { leave, ended }) {
    this.me = user;
    this.door = new Door(token);
    this.ended = ended;
    this.conversations = new Map();
    this.stale = new Set(); // conversations that may have missed something
    this.openId = null;
    this.view = null;
    this.drafts = new Map();
    this.closing = new AbortController();

    this.people = new People(user, this.door, () => this.draw());
    this.peopleView = new PeopleView(this.people, leave);
    this.connection = el("div.connection", { role: "status", hidden: true });
    this.stage = el("main.stage", { "aria-label": "Conversation" });
    this.element = el("div.workspace", {}, this.connection, this.peopleView.element, this.stage);
    this.live = new Live(token, this.#hears());
  }

  // --- life ------------------------------------------------------------------------------------------------------------

  open() {
    const { signal } = this.closing;
    addEventListener("hashchange", () => this.#navigate(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#lookAgain(), { signal });
    this.timer = setInterval(() => document.hidden || this.#lookAgain(), LOOK_AGAIN);
    this.#waitForConnection();
    this.#navigate();
    this.#lookAgain();
  }

  close() {
    this.closing.abort();
    clearInterval(this.timer);
    clearTimeout(this.waiting);
    this.live.close();
    this.view?.close();
  }

  #hears() {
    return {
      connected: () => this.#connected(),
      lost: () => this.#lost(),
      ended: () => this.ended(),
      newMessage: (message) => this.#newMessage(message),
      messageUpdated: (message) => this.#take(message),
      messagesRead: (read) => this.people.takeRead(read),
      typing: ({ userId, typing }) => this.people.setTyping(userId, typing),
      onlineUsers: (ids) => this.people.setOnline(ids),
    };
  }

  // --- the connection --------------------------------------------------------------------------------------------------

  /** Everything may have happened meanwhile: look at the list, catch up, send what waits. */
  async #connected() {
    clearTimeout(this.waiting);
    this.connection.hidden = true;
    this.stale = new Set(this.conversations.values());
    await this.#lookAgain();
    for (const conversation of this.conversations.values()) this.#sendWaiting(conversation); // conversations do not wait for each other
  }

  #lost() {
    this.people.lost();
    this.#waitForConnection();
  }

  /** A short break is not worth a word. */
  #waitForConnection() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      say(this.connection, "No connection. Trying again…");
      this.connection.hidden = false;
    }, 1000);
  }

  async #lookAgain() {
    try {
      await Promise.all([this.people.refresh(), this.#freshen()]);
      this.#missed();
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
    }
  }

  /** The list knows of a message that the open conversation does not have. */
  #missed() {
    const conversation = this.conversations.get(this.openId);
    const newest = this.people.get(this.openId)?.lastMessage;
    if (conversation && newest) conversation.take(newest);
  }

  async #freshen() {
    const conversation = this.conversations.get(this.openId);
    if (!conversation || !this.stale.delete(conversation)) return;
    try {
      await conversation.refresh();
    } catch (error) {
      this.stale.add(conversation);
      throw error;
    }
  }

  // --- what comes in ---------------------------------------------------------------------------------------------------

  #take(message) {
    this.conversations.get(this.people.otherIn(message))?.take(message);
    return this.people.take(message);
  }

  #newMessage(message) {
    if (this.#take(message) === false || message.senderId === this.me.id) return;
    const name = this.people.get(message.senderId)?.displayName ?? message.senderId;
    announce(message.senderId === this.openId ? `${name}: ${message.text}` : `New message from ${name}.`);
  }

  // --- where one is ----------------------------------------------------------------------------------------------------

  /** The address names the open conversation, `#/alice`: the back button works, and so does a reload. */
  #navigate() {
    const id = document.location.hash.match(/^#\/([a-z0-9][a-z0-9_-]{0,31})$/)?.[1] ?? null;
    if (id !== this.openId || !this.view) this.#show(id);
  }

  #show(id) {
    if (this.view) this.drafts.set(this.openId, this.view.draft);
    this.view?.close();
    this.openId = id;
    this.view = id ? new ConversationView(this.#conversation(id), this.people, this) : null;
    this.stage.replaceChildren(this.view ? this.view.element : nothingOpen());
    this.element.classList.toggle("in-conversation", Boolean(id));
    this.view?.open(this.drafts.get(id) ?? "");
    this.#freshen().catch(() => {});
    this.draw();
  }

  #conversation(id) {
    if (!this.conversations.has(id)) {
      this.conversations.set(id, new Conversation(this.me.id, id, this.door, () => this.draw()));
    }
    return this.conversations.get(id);
  }

  /** Draw once after all that happens together. */
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    queueMicrotask(() => {
      this.drawing = false;
      if (this.closing.signal.aborted) return;
      this.peopleView.draw(this.openId);
      this.view?.draw();
      const { unread } = this.people;
      document.title = unread ? `(${unread}) chatlab` : "chatlab";
    });
  }

  // --- what goes out ---------------------------------------------------------------------------------------------------

  /** Shown at once; the message that comes back under its client id takes its place. */
  send(conversation, text) {
    const clientId = newId();
    const waiting = { clientId, text, createdAt: new Date().toISOString(), state: "sending", error: null };
    conversation.pending.push(waiting);
    this.retry(conversation, waiting);
  }

  /** The client id makes a repeat harmless: it is the same message, whether the first try arrived or not. */
  async retry(conversation, waiting) {
    Object.assign(waiting, { state: "sending", error: null });
    this.draw();
    try {
      this.#take(await this.live.ask("sendMessage", { receiverId: conversation.other, text: waiting.text, clientId: waiting.clientId }));
    } catch (error) {
      Object.assign(waiting, { state: "failed", error });
      if (error.code === "unauthenticated") this.ended();
      this.draw();
    }
  }

  discard(conversation, waiting) {
    conversation.pending = conversation.pending.filter((one) => one !== waiting);
    this.draw();
  }

  /** Send again what failed only because there was no connection. Each message waits for the one before, which keeps their order. */
  async #sendWaiting(conversation) {
    for (const waiting of [...conversation.pending]) {
      const isDiscarded = !conversation.pending.includes(waiting);
      if (!isDiscarded && waiting.error?.code === "offline") await this.retry(conversation, waiting);
    }
  }

  edit(message, text) {
    return this.#change("editMessage", { messageId: message._id, text });
  }

  remove(message) {
    return this.#change("deleteMessage", { messageId: message._id });
  }

  react(message, emoji) {
    const mine = message.reactions[emoji]?.includes(this.me.id);
    return this.#change(mine ? "removeReaction" : "addReaction", { messageId: message._id, emoji });
  }

  /** True when it was done; a refusal is told. */
  async #change(event, payload) {
    try {
      this.#take(await this.live.ask(event, payload));
      return true;
    } catch (error) {
      if (error.code === "unauthenticated") this.ended();
      else notice(plainly(error));
      return false;
    }
  }

  /** What the open conversation shows has been seen. */
  markRead(conversation) {
    const person = this.people.get(conversation.other);
    if (!person || !person.unread || person.self || !conversation.last || !this.live.connected) return;
    person.unread = 0;
    this.live.tell("markRead", { userId: conversation.other, seq: conversation.last });
    this.draw();
  }

  typing(conversation, typing) {
    if (conversation.other !== this.me.id) this.live.tell("typing", { receiverId: conversation.other, typing });
  }
}

function nothingOpen() {
  return el(
    "div.empty", {},
    el("img", { src: "static/chat/icon.svg", alt: "", width: "64", height: "64" }),
    el("h2", {}, "Choose somebody to talk to"),
    el("p", {}, "Your conversations stand on the left. Messages arrive as they are written."),
  );
}

/** `crypto.randomUUID` is missing on plain-http pages of another machine. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
