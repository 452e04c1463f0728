/* What a user has written here and the service has not saved yet: the draft of each conversation, and
   the messages that wait to be sent. Both are in localStorage, so they survive a reload, a crash, and
   the end of a session: they are there again when the same user logs in.

   Each draft and each message has a storage key of its own, so that several tabs of one user do not
   overwrite each other. */

/** @import { Message, Pending } from "./conversation.js" */

/** @typedef {{text: string, original: Message | null}} Draft - original: the message that it answers */

import { PATH } from "./session.js";
import { keysWith, read, remove, write } from "./storage.js";

/** @type {Draft} */
const NOTHING = { text: "", original: null };

export class Unsent {
  #drafts;
  #queue;

  /** @param {string} userId - who has written it */
  constructor(userId) {
    this.#drafts = `chatlab-draft ${PATH} ${userId} `;
    this.#queue = `chatlab-queue ${PATH} ${userId} `;
  }

  /**
   * @param {string} other - the other user of the conversation
   * @returns {Draft}
   */
  draft(other) {
    const draft = parse(read(this.#drafts + other));
    return typeof draft?.text === "string" ? draft : NOTHING;
  }

  /**
   * @param {string} other
   * @param {Draft} draft
   */
  setDraft(other, draft) {
    if (draft.text || draft.original) write(this.#drafts + other, JSON.stringify(draft));
    else remove(this.#drafts + other);
  }

  /**
   * The messages that wait, oldest first.
   *
   * @returns {{other: string, pending: Pending}[]}
   */
  queue() {
    const entries = keysWith(this.#queue).flatMap((key) => {
      const pending = parse(read(key));
      const isUsable = typeof pending?.text === "string" && pending.clientId && pending.createdAt;
      return isUsable ? [{ other: key.slice(this.#queue.length).split(" ")[0], pending }] : [];
    });
    return entries.sort((one, next) => one.pending.createdAt.localeCompare(next.pending.createdAt));
  }

  /**
   * Store a message that waits, or its new state.
   *
   * @param {string} other
   * @param {Pending} pending
   */
  keep(other, pending) {
    write(`${this.#queue}${other} ${pending.clientId}`, JSON.stringify(pending));
  }

  /**
   * Remove a message: it has been sent, or discarded.
   *
   * @param {string} other
   * @param {Pending} pending
   */
  forget(other, pending) {
    remove(`${this.#queue}${other} ${pending.clientId}`);
  }

  /** Remove everything: the account has been deleted. */
  forgetAll() {
    for (const key of [...keysWith(this.#drafts), ...keysWith(this.#queue)]) remove(key);
  }

  /**
   * Call `changed` when another tab has queued, sent or discarded a message.
   *
   * @param {() => void} changed
   * @param {AbortSignal} signal - ends it
   */
  onChangeInOtherTab(changed, signal) {
    addEventListener(
      "storage",
      ({ key }) => {
        if (key === null || key.startsWith(this.#queue)) changed();
      },
      { signal },
    );
  }
}

/** @param {string | null} stored */
function parse(stored) {
  try {
    return JSON.parse(stored ?? "null");
  } catch {
    return null;
  }
}
