/* The HTTP door, as the contract describes it. Every address is relative to the page, so a path prefix changes nothing. */

import { ChatError } from "./words.js";

const PATIENCE = 15_000; // ms

async function ask(method, path, { token, body } = {}) {
  const headers = { accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    const options = { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE) }; // `cache: "no-store"` would send no-cache: a bypass
    answer = await fetch(new URL(path, document.baseURI), options);
    if (answer.ok) return answer.status === 204 ? null : await answer.json();
  } catch {
    throw new ChatError("offline");
  }
  throw await refusal(answer);
}

/** The problem in an answer; something between us and the service may answer without one. */
async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  if (typeof problem.code === "string") return new ChatError(problem.code, String(problem.detail ?? ""));
  return new ChatError(answer.status >= 502 ? "offline" : "internal");
}

export const signUp = (username, password, displayName) =>
  ask("POST", "api/auth/signup", { body: { username, password, ...(displayName && { displayName }) } });

export const logIn = (username, password) => ask("POST", "api/auth/login", { body: { username, password } });

/** The door of somebody who is logged in. */
export class Door {
  constructor(token) {
    this.token = token;
  }

  logOut() {
    return ask("POST", "api/auth/logout", { token: this.token });
  }

  people() {
    return ask("GET", "api/users", { token: this.token });
  }

  /** A page of a conversation, oldest first: `{limit, before, after}`, seqs exclusive. */
  messages(userId, page) {
    return ask("GET", `api/messages/${encodeURIComponent(userId)}?${new URLSearchParams(page)}`, { token: this.token });
  }
}
