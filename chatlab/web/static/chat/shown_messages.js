/* Which of the loaded messages are on the page, and which one was the first unread one. A page of
   thousands of rows would be slow, so there are only those around the place that the user reads.
   This module does not touch the DOM. */

/** @import { Conversation } from "./conversation.js" */

const MAX_ROWS = 300;
const STEP = 25; // rows added at once, within one frame, when the user comes near the end of them

export class ShownMessages {
  #from = 0; // seq of the first row
  #to = Infinity; // seq of the last row; Infinity: the newest message and those that wait to be sent
  /** @type {number | null} */
  firstUnreadSeq = null; // 0: none; null: not known yet
  lastSeenSeq = 0; // the last message that was on the screen

  /** @param {Conversation} conversation */
  constructor(conversation) {
    this.conversation = conversation;
  }

  get reachesEnd() {
    return this.#to === Infinity;
  }

  get reachesBeginning() {
    return this.conversation.complete && this.#from <= 1;
  }

  /** The messages to show, oldest first. */
  messages() {
    const { messages, first } = this.conversation;
    const begin = Math.max(0, this.#from - first);
    return messages.slice(begin, Math.max(0, Math.min(messages.length, this.#to - first + 1)));
  }

  /** Show the newest messages. */
  followEnd() {
    this.#to = Infinity;
    const { first, last } = this.conversation;
    this.#from = last - first < MAX_ROWS ? 0 : last - MAX_ROWS + 1;
  }

  /**
   * Show the messages around this one.
   *
   * @param {number} seq
   */
  around(seq) {
    this.#from = seq - MAX_ROWS / 2;
    this.#limit(seq + MAX_ROWS / 2);
  }

  /** Show older messages. Returns false if all loaded ones are shown already. */
  extendUp() {
    const { first, last } = this.conversation;
    const from = Math.max(first, this.#from);
    const hasMore = from > first;
    this.#from = hasMore ? from - STEP : 0;
    this.#limit(Math.min(this.#to, Math.max(first, this.#from) + MAX_ROWS, last));
    return hasMore;
  }

  /** Show newer messages. Returns false if the newest one is shown already. */
  extendDown() {
    if (this.reachesEnd) return false;
    this.#limit(this.#to + STEP);
    const end = Math.min(this.#to, this.conversation.last);
    this.#from = Math.max(this.#from, end - MAX_ROWS);
    return true;
  }

  /** @param {number} to */
  #limit(to) {
    this.#to = to >= this.conversation.last ? Infinity : to;
  }

  /**
   * Find the first unread message of a conversation that has just been opened, and return its seq,
   * or 0. Loads older messages if it is among them.
   *
   * @param {number} unread - their number
   * @param {number} newest - the seq of the newest message when they were counted
   */
  findFirstUnread(unread, newest) {
    const { conversation } = this;
    const received = conversation.received.filter(({ seq }) => seq <= newest);
    if (received.length < unread && !conversation.complete && !conversation.loadError) {
      conversation.loadOlder(unread - received.length + STEP);
      return 0;
    }
    const first = unread ? received.at(-Math.min(unread, received.length)) : undefined;
    this.firstUnreadSeq = first?.seq ?? 0;
    this.lastSeenSeq = first ? first.seq - 1 : newest;
    return this.firstUnreadSeq;
  }

  /** The messages of the other user that were not on the screen yet. */
  unseen() {
    return this.conversation.receivedAfter(this.lastSeenSeq);
  }
}
