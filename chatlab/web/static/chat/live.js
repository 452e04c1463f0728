/* The Socket.IO door: events as they come, and questions with an answer. */

import { io } from "../vendor/socket.io.esm.min.js";
import { ChatError } from "./words.js";

const PATIENCE = 10_000; // ms until a question without an answer has failed
const AGAIN = 1_000; // ms until we knock again where the service itself closed the door

export const EVENTS = ["newMessage", "messageUpdated", "messagesRead", "typing", "onlineUsers"];

export class Live {
  /** `hears` has a function for each of EVENTS, and `connected`, `lost`, `ended` (the session is no longer valid). */
  constructor(token, hears) {
    this.socket = io(document.location.origin, {
      path: new URL("socket.io", document.baseURI).pathname,
      transports: ["websocket"],
      auth: { token },
      reconnectionDelay: 250,
      reconnectionDelayMax: 3000,
      timeout: 8000,
    });
    for (const event of EVENTS) this.socket.on(event, (payload) => hears[event](payload));
    this.socket.on("connect", () => hears.connected());
    this.socket.on("disconnect", (reason) => this.#lost(reason, hears));
    this.socket.on("connect_error", (error) => this.#refused(error, hears));
  }

  get connected() {
    return this.socket.connected;
  }

  /** The message in the ack. Raises ChatError: the service's refusal, or "offline" when the outcome is not known. */
  async ask(event, payload) {
    if (!this.socket.connected) throw new ChatError("offline");
    let ack;
    try {
      ack = await this.socket.timeout(PATIENCE).emitWithAck(event, payload);
    } catch {
      throw new ChatError("offline");
    }
    if (!ack.ok) throw new ChatError(ack.error.code, ack.error.detail);
    return ack.message;
  }

  /** A hint that nobody waits for. */
  tell(event, payload) {
    if (this.socket.connected) this.socket.emit(event, payload);
  }

  close() {
    clearTimeout(this.again);
    this.socket.off();
    this.socket.disconnect();
  }

  #lost(reason, hears) {
    hears.lost();
    if (reason === "io server disconnect") this.#knockAgain(); // it stops, or our session has ended: the next connection tells
  }

  #refused(error, hears) {
    if (error.data?.code === "unauthenticated") hears.ended();
    else {
      hears.lost();
      if (!this.socket.active) this.#knockAgain(); // refused by the service; the library tries again only what did not reach it
    }
  }

  #knockAgain() {
    clearTimeout(this.again);
    this.again = setTimeout(() => this.socket.connect(), AGAIN);
  }
}
