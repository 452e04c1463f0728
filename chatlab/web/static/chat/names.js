/* How a user is named. Anyone may choose any display name, also that of another user, one in the
   letters of another script, or one of invisible characters. Only the handle is unique, so it stands
   next to every display name that does not spell it. */

/** @import { User } from "./session.js" */

import { el } from "./dom.js";

/** @typedef {User & {self?: boolean}} Named */

const label = (/** @type {Named} */ user) =>
  user.self ? `${user.displayName} (you)` : user.displayName;

/** @param {Named} user */
const handle = ({ id, displayName }) => (displayName.toLowerCase() === id ? "" : `@${id}`);

/**
 * The name as an element. A display name cannot change the direction of the text after it.
 *
 * @param {Named} user
 */
export function nameTag(user) {
  const parts = [el("bdi.name", {}, label(user))];
  if (handle(user)) parts.push(el("span.handle", {}, handle(user)));
  return el("span.named", { title: nameText(user) }, ...parts);
}

/**
 * The name as text, for screen readers and tooltips. Invisible characters are left out: some of them
 * change the direction of the text after them.
 *
 * @param {Named} user
 */
export function nameText(user) {
  const visible = label(user)
    .replace(/[\p{Cf}\p{Cc}]/gu, "")
    .trim();
  return [visible, handle(user)].filter(Boolean).join(" ");
}

/**
 * The name of this user as text. Someone who is not in the list yet has only a handle.
 *
 * @param {{get(id: string): User | undefined}} contacts
 * @param {string} id
 */
export const nameOf = (contacts, id) => nameText(contacts.get(id) ?? { id, displayName: id });

/**
 * Show the name of a user in this element, and return whether it has changed.
 *
 * @param {HTMLElement} node
 * @param {Named} user
 */
export function showName(node, user) {
  if (node.textContent === label(user) + handle(user)) return false;
  node.replaceChildren(nameTag(user));
  return true;
}
