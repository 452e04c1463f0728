/* The page /lab. The key in its address opens it: that of the presenter, or that of a viewer. The
   key then moves from the address, which the class can see, to the storage of this tab. */

/** @import { ChatError } from "../chat/format.js" */
/** @import { Handlers } from "./flow_socket.js" */

import { el } from "../chat/dom.js";
import { describeError } from "../chat/format.js";
import { watchFlow } from "./flow_socket.js";
import { openPlayers } from "./players.js";
import { request } from "./request.js";
import { Stage } from "./stage.js";

const NAME = `chatlab-lab ${new URL(".", document.baseURI).pathname}`;
const RETRY_MS = 2_000;
const app = /** @type {HTMLElement} */ (document.querySelector("#app"));
/** @type {Stage | null} */
let stage = null;

/** The key of the address, or the one that this tab has used before. */
function findKey() {
  const [, key] = document.location.hash.match(/key=([\w-]+)/) ?? [];
  if (!key) return sessionStorage.getItem(NAME);
  sessionStorage.setItem(NAME, key);
  history.replaceState(null, "", document.location.pathname + document.location.search);
  return key;
}

async function show() {
  stage?.close();
  stage = null;
  const key = findKey();
  if (!key) return app.replaceChildren(askForKey(""));
  try {
    const { body } = await request("GET", "api/lab/settings", { token: key });
    const players = body.role === "presenter" ? await openPlayers(key) : null;
    const watch = (/** @type {Handlers} */ handlers) => watchFlow(key, handlers);
    stage = new Stage({ settings: body, key, players, watch, refused });
    app.replaceChildren(stage.element);
    stage.open();
  } catch (error) {
    if (error.code === "unauthenticated") refused();
    else app.replaceChildren(retryLater(error));
  }
}

function refused() {
  sessionStorage.removeItem(NAME);
  stage?.close();
  stage = null;
  app.replaceChildren(askForKey("This key does not open the page: the service has another one."));
}

/** @param {string} problem */
function askForKey(problem) {
  const input = el("input", { id: "key", name: "key", autocomplete: "off", required: true });
  const open = (/** @type {Event} */ event) => {
    event.preventDefault();
    sessionStorage.setItem(NAME, input.value.trim().replace(/^.*key=/, ""));
    show();
  };
  return el(
    "main.p-door",
    {},
    el("h1", {}, "Live diagram"),
    el("p", { role: "alert" }, problem),
    el(
      "p",
      {},
      "This page opens with a key. “chatlab serve” prints an address that contains it: open that address, or type the key here.",
    ),
    el(
      "form",
      { onsubmit: open },
      el("label", { for: "key" }, "Key"),
      input,
      el("button", {}, "Open"),
    ),
  );
}

/**
 * The service did not answer: show why, and try again.
 *
 * @param {ChatError} error
 */
function retryLater(error) {
  setTimeout(show, RETRY_MS);
  /** @type {Record<string, string>} */
  const reasons = {
    offline: "No connection to the service.",
    store_unavailable: "MongoDB does not answer.",
  };
  const why = reasons[error.code] ?? describeError(error);
  return el("p.p-wait", { role: "alert" }, `${why} Trying again…`);
}

addEventListener("hashchange", () => show());
show();
