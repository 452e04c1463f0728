/* The users of this page: Ada and Ben, who chat, two who exchange the messages of a burst, and two
   whose reads are compared. The service creates them. They use the API like everybody else. */

/** @import { Socket } from "socket.io-client" */
/** @import { Session } from "../chat/session.js" */
/** @import { Message } from "./tape.js" */

import { ChatError } from "../chat/format.js";
import { io } from "../vendor/socket.io.esm.min.js";
import { COUNTED } from "./numbers.js";
import { request } from "./request.js";

/** @typedef {{left: Player, right: Player, crowd: Player[], readers: Player[], lastSeq: number}} Players */

const ACK_TIMEOUT_MS = 10_000;
const MAX_RETRY_DELAY_S = 5;

const random = (/** @type {number} */ bytes) =>
  [...crypto.getRandomValues(new Uint8Array(bytes))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");

/**
 * Log all of them in. Only the presenter may. `lastSeq` is that of their newest message so far:
 * what is older is not shown.
 *
 * @param {string} key
 * @returns {Promise<Players>}
 */
export async function openPlayers(key) {
  const { body } = await request("POST", "api/lab/users", { token: key });
  const all = body.map((/** @type {Session} */ session) => new Player(session));
  const [left, right] = all;
  const [crowd, readers] = [all.slice(2, COUNTED), all.slice(COUNTED)];
  const before = await left.read(right.id, { limit: 1, fresh: true });
  return { left, right, crowd, readers, lastSeq: before.body[0]?.seq ?? 0 };
}

/** One user, who can use both transports. */
export class Player {
  /** @type {Socket | null} */
  #socket = null;

  /** @param {Session} session */
  constructor({ user, token }) {
    this.id = user.id;
    this.name = user.displayName;
    this.token = token;
  }

  /**
   * Call `arrived` with each message that the service sends to this user, new or changed.
   *
   * @param {(message: Message) => void} arrived
   */
  listen(arrived) {
    this.#connected().on("newMessage", arrived).on("messageUpdated", arrived);
  }

  /**
   * Send a message over `http` or `socket`, and return it. After `rate_limited` it waits and tries
   * again while `mayRetry()` is true; the client id makes sure that it is saved only once.
   *
   * @param {"http" | "socket"} transport
   * @param {string} receiverId
   * @param {string} text
   * @param {() => boolean} mayRetry
   * @returns {Promise<Message>}
   */
  async send(transport, receiverId, text, mayRetry = () => true) {
    const payload = { receiverId, text, clientId: random(12) };
    return this.#patiently(
      () => (transport === "socket" ? this.#sendOverSocket(payload) : this.#sendOverHttp(payload)),
      mayRetry,
    );
  }

  /**
   * @template Result
   * @param {() => Promise<Result>} act
   * @param {() => boolean} mayRetry
   */
  async #patiently(act, mayRetry = () => true) {
    for (;;) {
      try {
        return await act();
      } catch (error) {
        if (error.code !== "rate_limited" || !mayRetry()) throw error;
        await new Promise((resolve) =>
          setTimeout(resolve, 1000 * Math.min(error.retryAfterS ?? 1, MAX_RETRY_DELAY_S)),
        );
      }
    }
  }

  /** @param {object} body */
  async #sendOverHttp(body) {
    return (await request("POST", "api/messages/send", { token: this.token, body })).body;
  }

  /** @param {object} payload */
  async #sendOverSocket(payload) {
    let ack;
    try {
      ack = await this.#connected().timeout(ACK_TIMEOUT_MS).emitWithAck("sendMessage", payload);
    } catch {
      throw new ChatError("offline");
    }
    if (!ack.ok) throw new ChatError(ack.error.code, ack.error.detail);
    return ack.message;
  }

  #connected() {
    const path = new URL("socket.io", document.baseURI).pathname;
    this.#socket ??= io(document.location.origin, {
      path,
      transports: ["websocket"],
      auth: { token: this.token },
      forceNew: true,
    });
    return this.#socket;
  }

  /**
   * Read the conversation with another user, from this `seq` on. With `fresh`, the service must not
   * use Redis.
   *
   * @param {string} other
   * @param {{after?: number, limit?: number, fresh?: boolean}} options
   */
  read(other, { after, limit, fresh = false } = {}) {
    const query = new URLSearchParams();
    if (after !== undefined) query.set("after", String(after));
    if (limit !== undefined) query.set("limit", String(limit));
    return this.#patiently(() =>
      request("GET", `api/messages/${other}?${query}`, { token: this.token, fresh }),
    );
  }

  /**
   * Add a reaction to a message, or remove it.
   *
   * @param {string} messageId
   * @param {string} emoji
   * @param {boolean} on
   */
  react(messageId, emoji, on) {
    const path = `api/messages/${messageId}/reactions/${encodeURIComponent(emoji)}`;
    return request(on ? "PUT" : "DELETE", path, { token: this.token });
  }

  /**
   * @param {string} messageId
   * @param {string} text
   */
  edit(messageId, text) {
    return request("PATCH", `api/messages/${messageId}`, { token: this.token, body: { text } });
  }

  close() {
    this.#socket?.disconnect();
  }
}
