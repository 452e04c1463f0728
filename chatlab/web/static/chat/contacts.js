/* The other users: who is online, the last message and the number of unread messages of each
   conversation. This module does not touch the DOM. */

/** @import { Api } from "./api.js" */
/** @import { Message } from "./conversation.js" */
/** @import { User } from "./session.js" */

/**
 * A user, and the state of my conversation with this user.
 *
 * @typedef {User & State} Contact
 *
 * @typedef {object} State
 * @property {boolean} online
 * @property {number} unread
 * @property {Message | null} lastMessage
 * @property {number} readUpTo - the seq up to which this user has read my messages
 * @property {boolean} [muted] - by me: no notices of new messages
 * @property {boolean} [blocked] - by me
 * @property {boolean} [deleted] - the user has deleted the account
 * @property {boolean} [self] - I myself
 *
 * @typedef {State & {user: User, lastMessage: Message}} ConversationRow
 */

const TYPING_LIMIT_MS = 6000;
const SEARCH_DELAY_MS = 200; // after the last key, before the service is asked

export class Contacts {
  /** @type {string | null} */
  #older = null; // the cursor of the conversations that are not loaded; null: all are
  #lastId = ""; // of the last user that is loaded, in the order of the service; "": all are
  #loading = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #searchTimer;

  /**
   * @param {User} me
   * @param {Api} api
   * @param {() => void} changed - called after each change
   */
  constructor(me, api, changed) {
    this.me = me;
    this.api = api;
    this.changed = changed;
    /** @type {Map<string, Contact>} */
    this.byId = new Map([
      [me.id, { ...me, online: true, unread: 0, lastMessage: null, readUpTo: 0, self: true }],
    ]);
    /** @type {Map<string, number>} */
    this.typing = new Map(); // user id -> timer that removes the entry
    this.loaded = false;
    this.searching = ""; // what the service is asked for
  }

  /** @param {string} id */
  get(id) {
    return this.byId.get(id);
  }

  /**
   * All users that are loaded, the most recent conversation first, then by name. Without messages, the user's own
   * entry is last.
   */
  sorted() {
    const time = (/** @type {Contact} */ user) => user.lastMessage?.createdAt ?? "";
    const order = (/** @type {Contact} */ one, /** @type {Contact} */ other) =>
      time(other).localeCompare(time(one)) ||
      Number(one.self ?? false) - Number(other.self ?? false) ||
      one.displayName.localeCompare(other.displayName);
    return [...this.byId.values()].sort(order);
  }

  /** The number of unread messages of users who are not muted. */
  get unread() {
    return [...this.byId.values()].reduce((sum, user) => sum + (user.muted ? 0 : user.unread), 0);
  }

  /**
   * Change what is known of a user.
   *
   * @param {string} id
   * @param {Partial<Contact>} changes
   */
  update(id, changes) {
    const user = this.get(id);
    if (user) this.byId.set(id, { ...user, ...changes });
    this.changed();
  }

  /**
   * Load the newest conversations, or load them again. If these are all, load other users too. The
   * first time both are asked for at once: on a slow network, each request takes long.
   */
  async refresh() {
    const users = this.loaded ? null : this.api.users();
    users?.catch(() => {}); // if it fails, the await below throws
    const page = await this.api.conversations();
    let lastId = this.#mergeConversations(page.items);
    this.changed(); // they are shown before the other users are known
    if (!page.next)
      lastId = this.#mergeUsers(await (users ?? this.api.users(lastId ? { after: lastId } : {})));
    if (!this.loaded) {
      this.#older = page.next;
      this.#lastId = lastId;
    }
    this.loaded = true;
    this.changed();
  }

  /** Load more, at the end of the list: older conversations, and then other users. */
  async loadMore() {
    if (!this.loaded || this.#loading || !this.#lastId) return;
    this.#loading = true;
    try {
      if (this.#older) {
        const page = await this.api.conversations({ before: this.#older });
        this.#older = page.next;
        this.#lastId = this.#mergeConversations(page.items);
      } else this.#lastId = this.#mergeUsers(await this.api.users({ after: this.#lastId }));
    } finally {
      this.#loading = false;
      this.changed();
    }
  }

  /**
   * Load the users whose id or name begins like this, soon.
   *
   * @param {string} query
   */
  find(query) {
    clearTimeout(this.#searchTimer);
    this.searching = query;
    if (query) this.#searchTimer = setTimeout(() => this.#search(query), SEARCH_DELAY_MS);
  }

  /** @param {string} query */
  async #search(query) {
    this.#mergeUsers(await this.api.users({ query }).catch(() => []));
    if (this.searching === query) this.searching = "";
    this.changed();
  }

  /**
   * Load one user, who is not in the list yet.
   *
   * @param {string} id
   */
  async learn(id) {
    const users = await this.api.users({ query: id }).catch(() => []);
    this.#mergeUsers(users.filter((user) => user.id === id));
    this.changed();
  }

  /**
   * Returns the id of the last user, or "".
   *
   * @param {ConversationRow[]} rows
   */
  #mergeConversations(rows) {
    return this.#mergeUsers(
      rows.map(({ user, ...state }) => ({ ...user, ...state, self: user.id === this.me.id })),
    );
  }

  /** @param {Contact[]} users */
  #mergeUsers(users) {
    for (const user of users) this.#merge(user);
    return users.at(-1)?.id ?? "";
  }

  /**
   * A response may be older than an event that has arrived meanwhile: the higher seq wins.
   *
   * @param {Contact} row
   */
  #merge(row) {
    const known = this.byId.get(row.id);
    const newer = known?.lastMessage && known.lastMessage.seq > (row.lastMessage?.seq ?? 0);
    const kept = newer ? { lastMessage: known.lastMessage, unread: known.unread } : {};
    this.byId.set(row.id, {
      ...known,
      ...row,
      ...kept,
      readUpTo: Math.max(known?.readUpTo ?? 0, row.readUpTo ?? 0),
    });
  }

  /**
   * The id of the other participant.
   *
   * @param {Message} message
   */
  partnerOf(message) {
    return message.senderId === this.me.id ? message.receiverId : message.senderId;
  }

  /**
   * Take in a message from an event or an acknowledgement. Returns true if it is new here.
   *
   * @param {Message} message
   */
  take(message) {
    const partner = this.get(this.partnerOf(message));
    if (!partner) return void this.learn(this.partnerOf(message));
    const { seq = 0, version = 0 } = partner.lastMessage ?? {};
    const isNew = message.seq > seq;
    if (isNew || (message.seq === seq && message.version > version)) partner.lastMessage = message;
    if (isNew && message.senderId !== this.me.id) partner.unread += 1;
    if (isNew) this.setTyping(partner.id, false);
    this.changed();
    return isNew;
  }

  /**
   * A user has read everything up to `seq`: the partner, or I myself in another tab.
   *
   * @param {{userId: string, seq: number, conversation: string}} read
   */
  takeRead({ userId, seq, conversation }) {
    if (userId !== this.me.id) {
      const partner = this.get(userId);
      if (partner) partner.readUpTo = Math.max(partner.readUpTo, seq);
    } else {
      const partner = [...this.byId.values()].find(
        ({ id }) => conversation === [id, userId].sort().join(":"),
      );
      if (partner && (partner.lastMessage?.seq ?? 0) <= seq) partner.unread = 0;
    }
    this.changed();
  }

  /**
   * The service names my conversation partners. Others keep the state of the list.
   *
   * @param {string[]} ids
   */
  setOnline(ids) {
    const online = new Set(ids);
    for (const user of this.byId.values()) if (user.lastMessage) user.online = online.has(user.id);
    this.changed();
  }

  /**
   * Show that a user is typing, for at most TYPING_LIMIT_MS: the event that ends it may be lost.
   *
   * @param {string} id
   * @param {boolean} typing
   */
  setTyping(id, typing) {
    clearTimeout(this.typing.get(id));
    if (typing)
      this.typing.set(
        id,
        setTimeout(() => this.setTyping(id, false), TYPING_LIMIT_MS),
      );
    else this.typing.delete(id);
    this.changed();
  }

  /** Show all users as offline: without a connection their state is unknown. */
  lost() {
    for (const id of this.typing.keys()) this.setTyping(id, false);
    for (const user of this.byId.values()) user.online = false;
    this.changed();
  }
}
