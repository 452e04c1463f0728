/* The users of this page: Ada and Ben in the two panes, and two more who exchange the messages of a
   burst.

   Each one is an ordinary user with its own session, stored where the chat page of the pane looks
   for it. */

/** @import { Socket } from "socket.io-client" */
/** @import { Session } from "../chat/session.js" */

import { ChatError } from "../chat/format.js";
import { read, write } from "../chat/storage.js";
import { io } from "../vendor/socket.io.esm.min.js";
import { request } from "./request.js";

/** @typedef {keyof typeof NAMES} Pane */
/** @typedef {Record<Pane, Player>} Players */

const NAMES = { left: "Ada", right: "Ben", "crowd-1": "Crowd One", "crowd-2": "Crowd Two" };
const ACK_TIMEOUT_MS = 10_000;
const MAX_RETRY_DELAY_S = 5;

const keyOf = (/** @type {Pane} */ pane) =>
  `chatlab ${new URL(".", document.baseURI).pathname} ${pane}`; // as in session.js
const random = (/** @type {number} */ bytes) =>
  [...crypto.getRandomValues(new Uint8Array(bytes))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");

/**
 * Return all four players, by pane. `token` is the teacher's; it is checked first, so that no user
 * is created for an ended session.
 *
 * @param {string} token
 */
export async function createPlayers(token) {
  await request("GET", "api/auth/me", { token });
  const panes = /** @type {Pane[]} */ (Object.keys(NAMES));
  const sessions = await Promise.all(panes.map(sessionOf));
  const players = panes.map((pane, index) => [pane, new Player(sessions[index])]);
  return /** @type {Players} */ (Object.fromEntries(players));
}

/**
 * @param {Pane} pane
 * @returns {Promise<Session>}
 */
async function sessionOf(pane) {
  const known = stored(pane);
  try {
    if (known) return await request("GET", "api/auth/me", { token: known.token }).then(() => known);
  } catch (error) {
    if (error.code !== "unauthenticated") throw error;
  }
  return signUp(pane);
}

/**
 * @param {Pane} pane
 * @returns {Session | null}
 */
function stored(pane) {
  try {
    return JSON.parse(read(keyOf(pane)) ?? "null");
  } catch {
    return null;
  }
}

/**
 * Sign up a new user. The password is not stored: when the session has ended, the next user takes
 * over the pane.
 *
 * @param {Pane} pane
 * @returns {Promise<Session>}
 */
async function signUp(pane) {
  const username = `${NAMES[pane].toLowerCase().replace(" ", "-")}-${random(3)}`;
  const { body } = await request("POST", "api/auth/signup", {
    body: { username, password: random(16), displayName: NAMES[pane] },
  });
  write(keyOf(pane), JSON.stringify(body));
  return body;
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
   * Send a message over `http` or `socket`. After `rate_limited` it waits and tries again while
   * `mayRetry()` is true;
   * the client id makes sure that the message is saved only once.
   *
   * @param {"http" | "socket"} transport
   * @param {string} receiverId
   * @param {string} text
   * @param {() => boolean} mayRetry
   */
  async send(transport, receiverId, text, mayRetry = () => true) {
    const payload = { receiverId, text, clientId: random(12) };
    for (;;) {
      try {
        if (transport === "socket") return await this.#sendOverSocket(payload);
        return await request("POST", "api/messages/send", { token: this.token, body: payload });
      } catch (error) {
        if (error.code !== "rate_limited" || !mayRetry()) throw error;
        await new Promise((resolve) =>
          setTimeout(resolve, 1000 * Math.min(error.retryAfterS ?? 1, MAX_RETRY_DELAY_S)),
        );
      }
    }
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
    return ack;
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

  /** @param {Player} other */
  read(other) {
    return request("GET", `api/messages/${other.id}`, { token: this.token });
  }

  close() {
    this.#socket?.disconnect();
  }
}
