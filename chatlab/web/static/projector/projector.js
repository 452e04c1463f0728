/* The page /lab: the log-in form without a session, the live diagram with one. The session is that
   of the chat page. */

/** @import { ChatError } from "../chat/format.js" */
/** @import { Session } from "../chat/session.js" */

import * as session from "../chat/session.js";
import { welcomeCard } from "../chat/welcome.js";
import { createPlayers } from "./players.js";
import { Stage } from "./stage.js";

const app = /** @type {HTMLElement} */ (document.querySelector("#app"));
/** @type {Stage | null} */
let stage = null;

/**
 * @param {Session | null} current
 * @param {string} reason
 */
async function show(current, reason = "") {
  stage?.close();
  stage = null;
  document.documentElement.classList.toggle("joining", !current);
  if (!current) return void app.replaceChildren(welcomeCard(enter, reason));
  try {
    const players = await createPlayers(current.token);
    stage = new Stage(current, players, () => ended());
    app.replaceChildren(stage.element);
    stage.open();
  } catch (error) {
    if (error.code === "unauthenticated") ended();
    else app.replaceChildren(retryLater(error));
  }
}

/** @param {Session} current */
function enter(current) {
  session.save(current);
  show(current);
}

function ended() {
  session.clear();
  show(null, "Your session has ended. Log in again.");
}

/**
 * The service did not answer: show why, and try again.
 *
 * @param {ChatError} error
 */
function retryLater(error) {
  const line = document.createElement("p");
  line.className = "p-wait";
  line.setAttribute("role", "alert");
  line.textContent =
    error.code === "offline"
      ? "No connection to the service. Trying again…"
      : `${error.detail || error.code}. Trying again…`;
  setTimeout(() => show(session.load()), 2000);
  return line;
}

session.onChangeInOtherTab(() => show(session.load()));
show(session.load());
