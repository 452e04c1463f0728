/* The session of this browser: which user is logged in.

   The token is in localStorage. So all tabs of a browser share one session, it survives a reload
   and a restart, and a log-out in one tab logs out all of them. sessionStorage would ask for the
   password in each new tab, and would not hide the token from a script on this page either. What
   protects it is the content security policy, and that texts of users are never parsed as HTML.

   The storage key contains the path, so that two services behind one proxy stay apart, and the
   pane: `?pane=left` and `?pane=right` are two users in one window. The token is never part of a
   URL.

   The id of this device is part of each sign-up and log-in, and stays after a log-out: guesses of
   others do not delay a log-in from a device that the account knows. It opens no account. */

import { read, remove, write } from "./storage.js";

/** @typedef {{id: string, displayName: string}} User */
/** @typedef {{user: User, token: string}} Session */

const PANE = new URL(document.baseURI).searchParams.get("pane") ?? "";
export const PATH = new URL(".", document.baseURI).pathname;
const KEY = `chatlab ${PATH} ${PANE}`;
const DEVICE_KEY = `chatlab-device ${PATH}`;

/**
 * Return the stored session `{user, token}`, or null.
 *
 * @returns {Session | null}
 */
export function load() {
  try {
    const session = JSON.parse(read(KEY) ?? "null");
    return session?.token && session.user?.id ? session : null;
  } catch {
    return null;
  }
}

/** @param {Session} session */
export function save(session) {
  write(KEY, JSON.stringify(session));
}

export function clear() {
  remove(KEY);
}

/** The id of this device: chosen at random at the first sign-up or log-in. */
export function deviceId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const id = read(DEVICE_KEY) ?? btoa(String.fromCharCode(...bytes));
  write(DEVICE_KEY, id);
  return id;
}

/**
 * Call `changed` when another tab has logged in or out, or has changed the name of the user.
 *
 * @param {() => void} changed
 */
export function onChangeInOtherTab(changed) {
  addEventListener("storage", ({ key }) => {
    if (key === KEY || key === null) changed();
  });
}
