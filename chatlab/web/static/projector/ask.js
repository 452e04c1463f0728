/* A request as this page needs it: besides the body, how long it took and what X-Cache said. Never with fetch's `cache: "no-store"`: it
   would send `Cache-Control: no-cache`, which asks the service to pass its cache by. */

import { ChatError } from "../chat/words.js";

const PATIENCE = 15_000; // ms

/** `{body, cache, tookMs}`. Raises ChatError; one that is rate_limited has `after`, the seconds to wait. */
export async function ask(method, path, { token, body } = {}) {
  const headers = { accept: "application/json", ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) };
  const began = performance.now();
  let answer;
  try {
    const options = { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE) };
    answer = await fetch(new URL(path, document.baseURI), options);
    if (answer.ok) return { body: await answer.json(), cache: answer.headers.get("x-cache"), tookMs: performance.now() - began };
  } catch {
    throw new ChatError("offline");
  }
  const problem = await answer.json().catch(() => ({}));
  throw Object.assign(new ChatError(problem.code ?? "internal", problem.detail ?? ""), { after: Number(answer.headers.get("retry-after") ?? 1) });
}
