/* The chat page: the log-in form without a session, the workspace with one. The log-in form does not
   wait for the modules of the workspace, which are loaded when they are needed. */

/** @import { Session } from "./session.js" */
/** @import { Workspace } from "./workspace.js" */

import { Api } from "./api.js";
import { announce, el, notice } from "./dom.js";
import { describeError } from "./format.js";
import * as session from "./session.js";
import { welcomeCard } from "./welcome.js";

const app = /** @type {HTMLElement} */ (document.querySelector("#app"));
/** @type {Session | null} */
let shown = null;
/** @type {Workspace | null} */
let workspace = null;

/**
 * @param {Session | null} current
 * @param {string} reason
 */
function show(current, reason = "") {
  workspace?.close();
  workspace = null;
  shown = current;
  app.replaceChildren(current ? frame(current) : welcomeCard(enter, reason));
  if (current) openWorkspace(current);
  else document.title = "chatlab";
}

/** Let the browser load the workspace when the first view is complete: it would delay that one. */
function prefetchWorkspace() {
  for (const path of ["./workspace.js", "../vendor/socket.io.esm.min.js"]) {
    const { href } = new URL(path, import.meta.url);
    document.head.append(el("link", { rel: "prefetch", href }));
  }
}

/** @param {Session} current */
async function openWorkspace(current) {
  // Both at once: on a slow network, each request takes long.
  const modules = Promise.all([import("./workspace.js"), import("../vendor/socket.io.esm.min.js")]);
  const loaded = await modules.then(
    ([workspace]) => workspace,
    () => null,
  );
  if (shown !== current) return; // logged out meanwhile
  if (!loaded) return app.replaceChildren(notLoaded());
  workspace = new loaded.Workspace(shown, { leave, ended, deleted, renamed: session.save });
  app.replaceChildren(workspace.element);
  workspace.open();
}

/**
 * What can be shown before the workspace is loaded.
 *
 * @param {Session} session
 */
function frame({ user }) {
  const name = el(
    "div.who",
    {},
    el("strong", {}, user.displayName),
    el("small", {}, `@${user.id}`),
  );
  const me = el("header.me", {}, el("span.avatar"), name);
  const side = el("nav.side", {}, me, el("p.hint", { role: "status" }, "Loading…"));
  return el("main.workspace", {}, side, el("div.stage"));
}

/** A browser does not ask again for a module that could not be loaded. Only a reload helps. */
function notLoaded() {
  const reload = el("button.primary", { onclick: () => document.location.reload() }, "Reload");
  const why = el("p.trouble", { role: "alert" }, "The page could not be loaded completely.");
  return el("div.welcome", {}, el("main.card", {}, why, reload));
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
addEventListener("load", prefetchWorkspace);
show(session.load());
