/* An HTTP request that also reports how long it took and what X-Cache said.

   It uses fetch's `cache: "no-store"` only to bypass Redis: fetch then sends
   `Cache-Control: no-cache`. */

import { ChatError } from "../chat/format.js";

const REQUEST_TIMEOUT_MS = 15_000;

/**
 * Return the response: its JSON, its header X-Cache and the milliseconds it took. Throws ChatError;
 * after `rate_limited` its `retryAfterS` is the time to wait.
 *
 * @param {string} method
 * @param {string} path
 * @param {{token?: string, body?: object, fresh?: boolean}} options
 * @returns {Promise<{body: any, cache: string | null, tookMs: number}>}
 */
export async function request(method, path, { token, body, fresh } = {}) {
  const headers = {
    accept: "application/json",
    ...(token && { authorization: `Bearer ${token}` }),
    ...(body && { "content-type": "application/json" }),
  };
  /** @type {RequestInit} */
  const options = {
    method,
    ...(fresh && { cache: "no-store" }),
    headers,
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
  };
  const began = performance.now();
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
    if (response.ok)
      return {
        body: await response.json(),
        cache: response.headers.get("x-cache"),
        tookMs: performance.now() - began,
      };
  } catch {
    throw new ChatError("offline");
  }
  const problem = await response.json().catch(() => ({}));
  const retryAfterS = Number(response.headers.get("retry-after") ?? 1);
  throw Object.assign(new ChatError(problem.code ?? "internal", problem.detail ?? ""), {
    retryAfterS,
  });
}
