/* The keys that work everywhere on the page, and those of the list of users. */

import { openHelpDialog } from "./help_dialog.js";

/** @import { ContactsView } from "./contacts_view.js" */

/**
 * @param {ContactsView} contacts
 * @param {() => void} search - opens the search in the open conversation
 * @param {AbortSignal} signal - ends it
 */
export function addKeys(contacts, search, signal) {
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const control = (event.ctrlKey || event.metaKey) && !event.altKey;
    const key = event.key.toLowerCase();
    if (control && !event.shiftKey && key === "k") findUser(contacts);
    else if (control && event.shiftKey && key === "f") search();
    else if (key === "?" && !control && !isTextField(event.target)) openHelpDialog();
    else return;
    event.preventDefault();
  };
  document.addEventListener("keydown", pressed, { signal });
  contacts.element.addEventListener("keydown", (event) => moveInList(event, contacts));
}

/** @param {EventTarget | null} target */
const isTextField = (target) => target instanceof Element && target.matches("input, textarea");

/** @param {ContactsView} contacts */
function findUser({ filter }) {
  const focus = () => {
    filter.focus();
    filter.select();
  };
  if (filter.checkVisibility()) return focus();
  addEventListener("hashchange", focus, { once: true }); // after that of the workspace
  document.location.hash = "#"; // a phone shows the list alone
}

/**
 * Enter in the field opens the first user; the arrow keys move between the field and the users.
 *
 * @param {KeyboardEvent} event
 * @param {ContactsView} contacts
 */
function moveInList(event, { filter, list }) {
  if (event.isComposing) return;
  const links = [...list.querySelectorAll("a")];
  const place = links.indexOf(/** @type {HTMLAnchorElement} */ (event.target));
  const inField = event.target === filter;
  if (!inField && place < 0) return;
  if (event.key === "ArrowDown") (links[place + 1] ?? links.at(-1))?.focus();
  else if (event.key === "ArrowUp" && !inField) (links[place - 1] ?? filter).focus();
  else if (event.key === "Home" && !inField) links[0].focus();
  else if (event.key === "End" && !inField) links.at(-1)?.focus();
  else if (event.key === "Enter" && inField && links.length) {
    links[0].click();
    filter.value = "";
    filter.dispatchEvent(new Event("input"));
  } else return;
  event.preventDefault();
}
