/* The page /lab: who is logged in (as on the chat page) sees the diagram; who is not joins first. */

import * as session from "../chat/session.js";
import { welcome } from "../chat/welcome.js";
import { bringPeople } from "./people.js";
import { Stage } from "./stage.js";

const app = document.querySelector("#app");
let stage = null;

async function show(current, reason = "") {
  stage?.close();
  stage = null;
  document.documentElement.classList.toggle("joining", !current);
  if (!current) return void app.replaceChildren(welcome(enter, reason));
  try {
    const people = await bringPeople(current.token);
    stage = new Stage(current, people, () => ended());
    app.replaceChildren(stage.element);
    stage.open();
  } catch (error) {
    if (error.code === "unauthenticated") ended();
    else app.replaceChildren(...welcomeLater(error));
  }
}

function enter(current) {
  session.store(current);
  show(current);
}

function ended() {
  session.forget();
  show(null, "Your session has ended. Log in again.");
}

/** The service is away: the page tries again by itself. */
function welcomeLater(error) {
  const line = document.createElement("p");
  line.className = "p-wait";
  line.setAttribute("role", "alert");
  line.textContent = error.code === "offline" ? "No connection to the service. Trying again…" : `${error.detail || error.code}. Trying again…`;
  setTimeout(() => show(session.stored()), 2000);
  return [line];
}

session.onElsewhere(() => show(session.stored()));
show(session.stored());
