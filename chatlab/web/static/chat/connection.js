/* The Socket.IO connection: events from the service, and requests that it acknowledges. */

import { io } from "../vendor/socket.io.esm.min.js";
/** @import { Message } from "./conversation.js" */

import { ChatError } from "./format.js";

const ACK_TIMEOUT_MS = 10_000;
const RECONNECT_DELAY_MS = 1_000; // doubled after each failure, up to the maximum
const RECONNECT_DELAY_MAX_MS = 5_000;
// Each delay is between a quarter of this time and 1.75 times of it. After a restart of the service
// its clients do not all come back in the same moment.
const RECONNECT_JITTER = 0.75;
// A frozen network closes no connection. After this time without anything from the service, the page
// asks whether it is there. So a user who looks at the page learns it within 9 s.
const SILENCE_MS = 5_000;
const ALIVE_TIMEOUT_MS = 4_000;
const DROPPED = "forced close"; // the library's reason for what #drop does

/**
 * @typedef {object} Handlers - a function for each of EVENTS and for each change of the connection
 * @property {() => void} connected
 * @property {(isCertain: boolean) => void} lost - isCertain: it will not be back in a moment
 * @property {() => void} ended - the session is not valid any more
 * @property {(message: Message) => void} newMessage
 * @property {(message: Message) => void} messageUpdated
 * @property {(read: {userId: string, seq: number, conversation: string}) => void} messagesRead
 * @property {(change: {userId: string, typing: boolean}) => void} typing
 * @property {(ids: string[]) => void} onlineUsers - my conversation partners
 * @property {(change: {userId: string, online: boolean}) => void} presence - of one of these
 * @property {(lost: {since: string}) => void} resync - events may have been lost
 */

export const EVENTS = /** @type {const} */ ([
  "newMessage",
  "messageUpdated",
  "messagesRead",
  "typing",
  "onlineUsers",
  "presence",
  "resync",
]);

export class Connection {
  closing = new AbortController();

  /**
   * @param {string} token
   * @param {Handlers} handlers
   */
  constructor(token, handlers) {
    this.socket = io(document.location.origin, {
      path: new URL("socket.io", document.baseURI).pathname,
      transports: ["websocket"],
      auth: { token },
      reconnectionDelay: RECONNECT_DELAY_MS,
      reconnectionDelayMax: RECONNECT_DELAY_MAX_MS,
      randomizationFactor: RECONNECT_JITTER,
      timeout: 8000,
    });
    for (const event of EVENTS) this.socket.on(event, (payload) => handlers[event](payload));
    this.socket.on("connect", () => {
      this.#checkLater();
      handlers.connected();
    });
    this.socket.on("disconnect", (reason) => this.#lost(reason, handlers));
    this.socket.on("connect_error", (error) => this.#refused(error, handlers));
    this.socket.onAny(() => this.#checkLater());
    this.socket.io.on("ping", () => this.#checkLater());
    const { signal } = this.closing;
    addEventListener("offline", () => this.#drop() || handlers.lost(true), { signal });
    addEventListener("online", () => this.#reconnect(), { signal });
    document.addEventListener("visibilitychange", () => this.#check(), { signal });
  }

  get connected() {
    return this.socket.connected;
  }

  /**
   * Emit an event and return the message of its acknowledgement. Throws ChatError: the service's
   * error, or "offline" if the result is unknown.
   *
   * @param {string} event
   * @param {object} payload
   * @returns {Promise<Message>}
   */
  async request(event, payload) {
    if (!this.socket.connected) throw new ChatError("offline");
    let ack;
    try {
      ack = await this.socket.timeout(ACK_TIMEOUT_MS).emitWithAck(event, payload);
    } catch {
      throw new ChatError("offline");
    }
    this.#checkLater();
    if (!ack.ok) throw new ChatError(ack.error.code, ack.error.detail);
    return ack.message;
  }

  /**
   * Emit an event without waiting for an acknowledgement.
   *
   * @param {string} event
   * @param {object} payload
   */
  emit(event, payload) {
    if (this.socket.connected) this.socket.emit(event, payload);
  }

  close() {
    clearTimeout(this.reconnectTimer);
    clearTimeout(this.checkTimer);
    this.closing.abort();
    this.socket.off();
    this.socket.offAny();
    this.socket.disconnect();
  }

  #checkLater() {
    clearTimeout(this.checkTimer);
    this.checkTimer = setTimeout(() => this.#check(), SILENCE_MS);
  }

  /** Ask the service whether it is there. A page in the background has time. */
  async #check() {
    if (document.hidden || !this.socket.connected) return;
    clearTimeout(this.checkTimer);
    try {
      await this.socket.timeout(ALIVE_TIMEOUT_MS).emitWithAck("alive", {});
      if (!this.closing.signal.aborted) this.#checkLater();
    } catch {
      this.#drop();
    }
  }

  /** Close a connection that does not work; the library reconnects. Returns whether there was one. */
  #drop() {
    const { connected } = this.socket;
    if (connected) this.socket.io.engine.close();
    return connected;
  }

  /** The network is back: do not wait for the next attempt. */
  #reconnect() {
    if (this.socket.connected) return;
    this.socket.disconnect();
    this.socket.connect();
  }

  /**
   * @param {string} reason
   * @param {Handlers} handlers
   */
  #lost(reason, handlers) {
    handlers.lost(reason === DROPPED || !navigator.onLine);
    // The service is stopping, or our session has ended. The next connection shows which.
    if (reason === "io server disconnect") this.#reconnectLater();
  }

  /**
   * @param {Error & {data?: {code?: string}}} error
   * @param {Handlers} handlers
   */
  #refused(error, handlers) {
    if (error.data?.code === "unauthenticated") handlers.ended();
    else {
      handlers.lost(!navigator.onLine);
      // The library tries again only if the service was not reached, not if it refused.
      if (!this.socket.active) this.#reconnectLater();
    }
  }

  /** Reconnect after the service itself has closed or refused the connection. */
  #reconnectLater() {
    clearTimeout(this.reconnectTimer);
    const jitter = 1 + RECONNECT_JITTER * (2 * Math.random() - 1);
    this.reconnectTimer = setTimeout(() => this.socket.connect(), RECONNECT_DELAY_MS * jitter);
  }
}
