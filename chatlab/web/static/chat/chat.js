/* The chat page: the log-in form without a session, the workspace with one. */

/** @import { Session } from "./session.js" */

import { Api } from "./api.js";
import { announce, notice } from "./dom.js";
import { describeError } from "./format.js";
import * as session from "./session.js";
import { welcomeCard } from "./welcome.js";
import { Workspace } from "./workspace.js";

const app = /** @type {HTMLElement} */ (document.querySelector("#app"));
/** @type {Workspace | null} */
let workspace = null;

/**
 * @param {Session | null} current
 * @param {string} reason
 */
function show(current, reason = "") {
  workspace?.close();
  workspace = current && new Workspace(current, { leave, ended, deleted, renamed: session.save });
  app.replaceChildren(workspace ? workspace.element : welcomeCard(enter, reason));
  if (workspace) workspace.open();
  else document.title = "chatlab";
}

/** @param {Session} current */
function enter(current) {
  session.save(current);
  show(current);
  announce(`Logged in as ${current.user.displayName}.`);
}

/** Log out. The session is removed from this browser even if the service does not answer. */
async function leave() {
  const api = new Api(session.load()?.token);
  session.clear();
  forgetAddress();
  show(null);
  await api.logOut().catch((error) => {
    if (error.code !== "unauthenticated")
      notice(`Logged out in this browser only. ${describeError(error)}`);
  });
}

/** The service rejected our token: the session has ended. */
function ended() {
  session.clear();
  show(null, "Your session has ended. Log in again.");
}

/** The user has deleted the account. */
function deleted() {
  session.clear();
  forgetAddress();
  show(null, "Your account has been deleted.");
}

/** The address names the conversation that was open. */
function forgetAddress() {
  history.replaceState(null, "", document.location.pathname + document.location.search);
}

session.onChangeInOtherTab(() => {
  const current = session.load();
  if (workspace && current?.token === workspace.token) workspace.rename(current.user);
  else show(current);
});
show(session.load());
