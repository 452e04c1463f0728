/* The people of the stage: Ada and Ben in the two panes, and a crowd of two whom nobody watches, for bursts.

   Each is an ordinary user with a session of its own, kept where the chat page of its pane looks for it. */

import { io } from "../vendor/socket.io.esm.min.js";
import { ChatError } from "../chat/words.js";
import { ask } from "./ask.js";

const CAST = { left: "Ada", right: "Ben", "crowd-1": "Crowd One", "crowd-2": "Crowd Two" };
const PATIENCE = 10_000; // ms for an ack

const keyOf = (pane) => `chatlab ${new URL(".", document.baseURI).pathname} ${pane}`; // as session.js has it
const random = (bytes) => [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** All four, by pane. `token` is the instructor's: it is looked at first, so that a dead session is told before anybody is made. */
export async function bringPeople(token) {
  await ask("GET", "api/auth/me", { token });
  const panes = Object.keys(CAST);
  const people = await Promise.all(panes.map(bring));
  return Object.fromEntries(panes.map((pane, place) => [pane, new Player(people[place])]));
}

async function bring(pane) {
  const known = stored(pane);
  try {
    if (known) return await ask("GET", "api/auth/me", { token: known.token }).then(() => known);
  } catch (error) {
    if (error.code !== "unauthenticated") throw error;
  }
  return signUp(pane);
}

function stored(pane) {
  try {
    return JSON.parse(localStorage.getItem(keyOf(pane)));
  } catch {
    return null;
  }
}

/** Nobody needs the password: when the session has ended, somebody new comes. */
async function signUp(pane) {
  const username = `${CAST[pane].toLowerCase().replace(" ", "-")}-${random(3)}`;
  const { body } = await ask("POST", "api/auth/signup", { body: { username, password: random(16), displayName: CAST[pane] } });
  localStorage.setItem(keyOf(pane), JSON.stringify(body));
  return body;
}

/** Somebody at both doors. */
class Player {
  #socket = null;

  constructor({ user, token }) {
    Object.assign(this, { id: user.id, name: user.displayName, token });
  }

  /** Send by `http` or `socket`. What the rate limit refuses waits and goes again: its client id makes it the same message. */
  async send(door, receiverId, text, goesOn = () => true) {
    const payload = { receiverId, text, clientId: random(12) };
    for (;;) {
      try {
        return await (door === "http" ? ask("POST", "api/messages/send", { token: this.token, body: payload }) : this.#bySocket(payload));
      } catch (error) {
        if (error.code !== "rate_limited" || !goesOn()) throw error;
        await new Promise((go) => setTimeout(go, 1000 * Math.min(error.after ?? 1, 5)));
      }
    }
  }

  async #bySocket(payload) {
    let ack;
    try {
      ack = await this.#connected().timeout(PATIENCE).emitWithAck("sendMessage", payload);
    } catch {
      throw new ChatError("offline");
    }
    if (!ack.ok) throw new ChatError(ack.error.code, ack.error.detail);
    return ack;
  }

  #connected() {
    const path = new URL("socket.io", document.baseURI).pathname;
    this.#socket ??= io(document.location.origin, { path, transports: ["websocket"], auth: { token: this.token }, forceNew: true });
    return this.#socket;
  }

  read(other) {
    return ask("GET", `api/messages/${other.id}`, { token: this.token });
  }

  close() {
    this.#socket?.disconnect();
  }
}
