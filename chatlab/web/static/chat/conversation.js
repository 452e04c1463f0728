/* One conversation: its loaded messages, without gaps in seq, and the messages that wait to be
   sent. This module does not touch the DOM.

   Events are hints. A message that does not follow the last one shows that some were missed; then
   all messages after the last one are requested. Of two versions of a message, the higher one is
   kept. */

/** @import { Api } from "./api.js" */
/** @import { Unsent } from "./unsent.js" */

/**
 * @typedef {object} Message - a sent message
 * @property {string} _id
 * @property {number} seq - its number in the conversation, from 1
 * @property {number} version
 * @property {string} senderId
 * @property {string} receiverId
 * @property {string} text
 * @property {string | null} [clientId]
 * @property {Record<string, string[]>} reactions - user ids by emoji
 * @property {string} createdAt
 * @property {string | null} editedAt
 * @property {string | null} deletedAt
 * @property {string | null} [replyTo] - the `_id` of the message that this one answers
 *
 * @typedef {object} Pending - a message that waits to be sent
 * @property {string} clientId
 * @property {string} text
 * @property {string | null} replyTo
 * @property {string} createdAt
 * @property {"queued" | "refused"} state - queued: it is sent as soon as possible; refused: by the service
 * @property {{code: string, detail: string} | null} error - why it was refused
 */

/**
 * A sent or a pending message. What the other kind has is undefined.
 *
 * @typedef {(Message & Lacks<Pending>) | (Pending & Lacks<Message>)} Item
 */
/**
 * @template Other
 * @typedef {{[Key in Exclude<keyof Other, keyof Message & keyof Pending>]?: undefined}} Lacks
 */

const PAGE_SIZE = 50; // messages loaded at once when the user scrolls up
const CATCH_UP_SIZE = 200; // messages requested at once after a lost connection
const CONTEXT_SIZE = 20; // messages loaded before one that is to be shown

export class Conversation {
  #highestSeq = 0; // of all messages and events received
  /** @type {Map<string, number>} */
  #seqs = new Map(); // of the messages received, by their id
  /** @type {Promise<void> | null} */
  #catchingUp = null;
  /** @type {Promise<void> | null} */
  #loadingOlder = null;

  /**
   * @param {string} me - a user id
   * @param {string} other - a user id
   * @param {Api} api
   * @param {Unsent} unsent - stores the pending messages
   * @param {() => void} changed - called after each change
   */
  constructor(me, other, api, unsent, changed) {
    this.me = me;
    this.other = other;
    this.api = api;
    this.unsent = unsent;
    this.changed = changed;
    /** @type {Message[]} */
    this.messages = []; // oldest first, seq without gaps
    /** @type {Pending[]} */
    this.pending = [];
    /** @type {Map<string, Message | null>} */
    this.originals = new Map(); // messages that others answer and that are not loaded; null: not known
    this.markedSeq = 0; // up to here, the messages have been marked as read
    this.loaded = false;
    /** @type {import("./format.js").ChatError | null} */
    this.loadError = null; // why older messages could not be loaded
  }

  get first() {
    return this.messages[0]?.seq ?? 1;
  }

  get last() {
    return this.messages.at(-1)?.seq ?? 0;
  }

  get complete() {
    return this.loaded && this.first === 1;
  }

  get loading() {
    return this.#loadingOlder !== null;
  }

  /**
   * Add a message from an event, an acknowledgement or a page.
   *
   * @param {Message} message
   */
  take(message) {
    this.#highestSeq = Math.max(this.#highestSeq, message.seq);
    this.#removePending(message);
    if (this.originals.has(message._id)) this.originals.set(message._id, message);
    if (!this.loaded) return;
    this.#seqs.set(message._id, message.seq);
    if (message.seq === this.last + 1) this.messages.push(message);
    else if (message.seq <= this.last) this.#replace(message);
    else return void this.catchUp();
    this.changed();
  }

  /** @param {Message} message */
  #replace(message) {
    const place = message.seq - this.first;
    if (place >= 0 && this.messages[place].version < message.version)
      this.messages[place] = message;
  }

  /**
   * Remove the pending message with this client id: it has been saved.
   *
   * @param {Message} message
   */
  #removePending(message) {
    const sent = this.pending.find(({ clientId }) => clientId === message.clientId);
    if (sent && message.senderId === this.me) this.discard(sent);
  }

  /**
   * Add a message that waits to be sent, or store its new state.
   *
   * @param {Pending} pending
   */
  keep(pending) {
    if (!this.pending.includes(pending)) this.pending.push(pending);
    this.unsent.keep(this.other, pending);
    this.changed();
  }

  /**
   * Remove a pending message: it has been sent, or the user has discarded it.
   *
   * @param {Pending} pending
   */
  discard(pending) {
    this.pending = this.pending.filter((one) => one !== pending);
    this.unsent.forget(this.other, pending);
    this.changed();
  }

  /**
   * Take over the stored messages: another tab may have written, sent or discarded some.
   *
   * @param {Pending[]} stored
   */
  takeStored(stored) {
    const known = new Map(this.pending.map((pending) => [pending.clientId, pending]));
    this.pending = stored.map((pending) => known.get(pending.clientId) ?? pending);
    this.changed();
  }

  /** The loaded messages of the other user. */
  get received() {
    return this.messages.filter((message) => message.senderId === this.other);
  }

  /**
   * The loaded messages of the other user after this one.
   *
   * @param {number} seq
   */
  receivedAfter(seq) {
    const after = this.messages.slice(Math.max(0, seq + 1 - this.first));
    return after.filter((message) => message.senderId === this.other);
  }

  /**
   * The message with this id: a loaded one, or one that has been read alone, or else null. It may
   * be known later.
   *
   * @param {string} id
   */
  original(id) {
    const loaded = this.messages[(this.#seqs.get(id) ?? 0) - this.first];
    if (loaded) return loaded;
    if (!this.originals.has(id)) this.#readOriginal(id);
    return this.originals.get(id) ?? null;
  }

  /** @param {string} id */
  async #readOriginal(id) {
    this.originals.set(id, null);
    try {
      this.originals.set(id, await this.api.message(this.other, id));
      this.changed();
    } catch (error) {
      if (error.code === "offline") this.originals.delete(id); // the next drawing asks again
    }
  }

  /**
   * Load everything from this message on, and some messages before it.
   *
   * @param {number} seq
   */
  async loadBackTo(seq) {
    if (!this.loaded) await this.loadOlder();
    while (this.loaded && this.first > seq && !this.loadError)
      await this.loadOlder(this.first - seq + CONTEXT_SIZE);
  }

  /**
   * Load the newest page, or the page before the first loaded message.
   *
   * @param {number} size - of the page
   */
  loadOlder(size = PAGE_SIZE) {
    if (!this.#loadingOlder && !this.complete) {
      this.loadError = null;
      this.#loadingOlder = this.#loadOlder(size)
        .catch((error) => (this.loadError = error))
        .finally(() => {
          this.#loadingOlder = null;
          this.changed();
        });
      this.changed();
    }
    return this.#loadingOlder;
  }

  /** @param {number} size */
  async #loadOlder(size) {
    const where = this.loaded ? { before: this.first } : {};
    const page = await this.api.messages(this.other, { limit: size, ...where });
    if (this.loaded && page.length && page.at(-1)?.seq !== this.first - 1) return;
    this.messages.unshift(...page);
    this.loaded = true;
    for (const message of page) {
      this.#seqs.set(message._id, message.seq);
      this.#removePending(message);
    }
    if (this.last < this.#highestSeq) this.catchUp();
  }

  /**
   * Load all messages after the last one. A failure is harmless: the next connection or message
   * tries again.
   */
  catchUp() {
    if (!this.loaded) return this.loadOlder();
    this.#catchingUp ??= this.#catchUp()
      .catch(() => {})
      .finally(() => (this.#catchingUp = null));
    return this.#catchingUp;
  }

  async #catchUp() {
    let page, highestBefore;
    do {
      highestBefore = this.#highestSeq;
      page = await this.api.messages(this.other, { after: this.last, limit: CATCH_UP_SIZE });
      this.#takeAll(page);
    } while (
      page.length === CATCH_UP_SIZE ||
      this.#highestSeq > Math.max(highestBefore, this.last)
    );
  }

  /**
   * After a lost connection: load new messages, retry a failed older page, then update the loaded
   * messages.
   */
  async refresh() {
    await this.catchUp();
    if (this.loadError?.code === "offline") await this.loadOlder();
    for (let after = this.first - 1; this.loaded && after < this.last; after += CATCH_UP_SIZE) {
      const page = await this.api.messages(this.other, { after, limit: CATCH_UP_SIZE });
      this.#takeAll(page);
    }
  }

  /** @param {Message[]} page */
  #takeAll(page) {
    for (const message of page) if (message.seq <= this.last + 1) this.take(message);
  }
}
