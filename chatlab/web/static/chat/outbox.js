/* Sends the messages that wait to be sent, each one until the service has saved or refused it. */

/** @import { Conversation, Pending } from "./conversation.js" */
/** @import { Draft } from "./unsent.js" */
/** @import { Workspace } from "./workspace.js" */

const RETRY_DELAY_MS = 5000; // after the service could not save a message for now
// The service will not save such a message as it is. After all other errors it is sent again.
const REFUSALS = ["invalid", "not_found", "forbidden", "conflict", "too_large", "internal"];

export class Outbox {
  /** @type {Set<Conversation>} */
  #sending = new Set(); // conversations whose pending messages are being sent
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retryTimer;

  /** @param {Workspace} workspace */
  constructor(workspace) {
    this.workspace = workspace;
  }

  /** @param {Conversation} conversation */
  isSending(conversation) {
    return this.#sending.has(conversation);
  }

  close() {
    clearTimeout(this.#retryTimer);
  }

  /**
   * Show and store the message at once as pending. The saved message with the same client id
   * replaces it.
   *
   * @param {Conversation} conversation
   * @param {Draft} draft
   */
  send(conversation, { text, original }) {
    conversation.keep({
      clientId: newId(),
      text,
      replyTo: original?._id ?? null,
      createdAt: new Date().toISOString(),
      state: "queued",
      error: null,
    });
    this.#sendPending(conversation);
  }

  /**
   * Send a message again that the service has refused.
   *
   * @param {Conversation} conversation
   * @param {Pending} pending
   */
  retry(conversation, pending) {
    conversation.keep(Object.assign(pending, { state: "queued", error: null }));
    this.#sendPending(conversation);
  }

  sendAll() {
    // not awaited: conversations are independent
    for (const conversation of this.workspace.conversations.values())
      this.#sendPending(conversation);
  }

  /**
   * Send the pending messages one after the other, which keeps their order. If that is not possible
   * now, try again later, or when the connection is back.
   *
   * @param {Conversation} conversation
   */
  async #sendPending(conversation) {
    if (this.#sending.has(conversation)) return;
    this.#sending.add(conversation);
    this.workspace.draw();
    const next = () => conversation.pending.find(({ state }) => state !== "refused");
    for (let pending = next(); pending && this.workspace.connection.connected; pending = next())
      if (!(await this.#deliver(conversation, pending))) break;
    this.#sending.delete(conversation);
    this.workspace.draw();
  }

  /**
   * Send a pending message, perhaps again. Because of its client id the service saves it only once.
   * Returns whether the service has saved or refused it.
   *
   * @param {Conversation} conversation
   * @param {Pending} pending
   */
  async #deliver(conversation, pending) {
    const { clientId, text, replyTo } = pending;
    try {
      this.workspace.take(
        await this.workspace.connection.request("sendMessage", {
          receiverId: conversation.other,
          text,
          clientId,
          ...(replyTo && { replyTo }),
        }),
      );
      conversation.discard(pending);
      return true;
    } catch (error) {
      if (REFUSALS.includes(error.code)) {
        const { code, detail } = error;
        conversation.keep(Object.assign(pending, { state: "refused", error: { code, detail } }));
        return true;
      }
      if (error.code === "unauthenticated") this.workspace.ended();
      else this.#sendLater();
      return false;
    }
  }

  #sendLater() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.sendAll(), RETRY_DELAY_MS);
  }
}

/** A random client id. `crypto.randomUUID` exists only on HTTPS pages and on localhost. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}
