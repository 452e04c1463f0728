/* The chat page: who is logged in decides what is shown. */

import { announce, notice } from "./dom.js";
import * as doors from "./door.js";
import * as session from "./session.js";
import { welcome } from "./welcome.js";
import { plainly } from "./words.js";
import { Workspace } from "./workspace.js";

const app = document.querySelector("#app");
let workspace = null;

function show(current, reason = "") {
  workspace?.close();
  workspace = current && new Workspace(current, { leave, ended });
  app.replaceChildren(workspace ? workspace.element : welcome(enter, reason));
  if (workspace) workspace.open();
  else document.title = "chatlab";
}

function enter(current) {
  session.store(current);
  show(current);
  announce(`Logged in as ${current.user.displayName}.`);
}

/** Log out. The session is forgotten here even when the service cannot be told. */
async function leave() {
  const door = new doors.Door(session.stored()?.token);
  session.forget();
  history.replaceState(null, "", document.location.pathname + document.location.search);
  show(null);
  await door.logOut().catch((error) => {
    if (error.code !== "unauthenticated") notice(`Logged out here only. ${plainly(error)}`);
  });
}

/** The service no longer knows our token. */
function ended() {
  session.forget();
  show(null, "Your session has ended. Log in again.");
}

session.onElsewhere(() => show(session.stored()));
show(session.stored());
