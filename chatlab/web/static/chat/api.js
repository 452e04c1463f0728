/* The HTTP API. Every address is relative to the page, so it works under any path prefix. */

/** @import { LogInSession } from "./account_dialog.js" */
/** @import { Contact, ConversationRow } from "./contacts.js" */
/** @import { Message } from "./conversation.js" */
/** @import { Session, User } from "./session.js" */

import { ChatError } from "./format.js";
import { deviceId } from "./session.js";

const REQUEST_TIMEOUT_MS = 15_000;

/**
 * @param {string} method
 * @param {string} path
 * @param {{token?: string, body?: object}} options
 */
async function request(method, path, { token, body } = {}) {
  /** @type {Record<string, string>} */
  const headers = { accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  // No `cache: "no-store"`: fetch would send `Cache-Control: no-cache`, and the service would bypass Redis.
  const options = {
    method,
    headers,
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
  };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
    if (response.ok) return response.status === 204 ? null : await response.json();
  } catch {
    throw new ChatError("offline");
  }
  throw await errorOf(response);
}

/**
 * The error in a response. A proxy may answer without the service's problem JSON.
 *
 * @param {Response} response
 */
async function errorOf(response) {
  const problem = await response.json().catch(() => ({}));
  if (typeof problem.code === "string")
    return new ChatError(problem.code, String(problem.detail ?? ""));
  return new ChatError(response.status >= 502 ? "offline" : "internal");
}

/**
 * @param {string} username
 * @param {string} password
 * @param {string} displayName
 * @returns {Promise<Session>}
 */
export const signUp = (username, password, displayName) =>
  request("POST", "api/auth/signup", {
    body: { username, password, ...(displayName && { displayName }), deviceId: deviceId() },
  });

/**
 * @param {string} username
 * @param {string} password
 * @returns {Promise<Session>}
 */
export const logIn = (username, password) =>
  request("POST", "api/auth/login", {
    body: { username, password, deviceId: deviceId() },
  });

/** The requests of a user who is logged in. */
export class Api {
  /** @param {string | undefined} token */
  constructor(token) {
    this.token = token;
  }

  logOut() {
    return request("POST", "api/auth/logout", { token: this.token });
  }

  /**
   * @param {string} displayName
   * @returns {Promise<User>}
   */
  rename(displayName) {
    return this.#send("PATCH", "api/auth/me", { displayName });
  }

  /** @param {string} password */
  deleteAccount(password) {
    return this.#send("DELETE", "api/auth/me", { password });
  }

  /**
   * @param {string} current
   * @param {string} new_
   */
  changePassword(current, new_) {
    return this.#send("POST", "api/auth/password", { current, new: new_ });
  }

  /** @returns {Promise<LogInSession[]>} */
  sessions() {
    return this.#send("GET", "api/auth/sessions");
  }

  /** @param {string} id */
  endSession(id) {
    return this.#send("DELETE", `api/auth/sessions/${id}`);
  }

  endOtherSessions() {
    return this.#send("DELETE", "api/auth/sessions");
  }

  /**
   * Block or mute a user, or end that.
   *
   * @param {string} userId
   * @param {"block" | "mute"} what
   * @param {boolean} on
   */
  setList(userId, what, on) {
    return this.#send(on ? "PUT" : "DELETE", `api/users/${encodeURIComponent(userId)}/${what}`);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   */
  #send(method, path, body) {
    return request(method, path, { token: this.token, body });
  }

  /**
   * A page of my conversations, the newest first. `before` is `next` of the page before.
   *
   * @param {{before?: string}} page
   * @returns {Promise<{items: ConversationRow[], next: string | null}>}
   */
  conversations(page = {}) {
    return this.#send("GET", `api/conversations?${new URLSearchParams(page)}`);
  }

  /**
   * A page of the other users. `query` is the beginning of an id or a name, `after` the last id of
   * the page before.
   *
   * @param {{query?: string, after?: string}} page
   * @returns {Promise<Contact[]>}
   */
  users(page = {}) {
    return this.#send("GET", `api/users?${new URLSearchParams(page)}`);
  }

  /**
   * One message of a conversation.
   *
   * @param {string} userId
   * @param {string} id
   * @returns {Promise<Message>}
   */
  message(userId, id) {
    return this.#send("GET", `api/messages/${encodeURIComponent(userId)}/${id}`);
  }

  /**
   * The messages of a conversation that contain a text, newest first.
   *
   * @param {string} userId
   * @param {{query: string, limit: number, before?: number}} asked
   * @returns {Promise<Message[]>}
   */
  search(userId, asked) {
    const query = new URLSearchParams(/** @type {any} */ (asked)); // numbers become text
    return this.#send("GET", `api/messages/${encodeURIComponent(userId)}/search?${query}`);
  }

  /**
   * A page of a conversation, oldest message first. `page`: {limit, before, after}, seqs are
   * exclusive.
   *
   * @param {string} userId
   * @param {{limit: number, before?: number, after?: number}} page
   * @returns {Promise<Message[]>}
   */
  messages(userId, page) {
    const query = new URLSearchParams(/** @type {any} */ (page)); // numbers become text
    return request("GET", `api/messages/${encodeURIComponent(userId)}?${query}`, {
      token: this.token,
    });
  }
}
