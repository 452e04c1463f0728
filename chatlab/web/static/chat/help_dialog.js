/* What the keyboard can do, and how a text is formatted. */

import { el, iconButton, otherPages } from "./dom.js";

/** @type {[string, [keys: string[], what: string][]][]} */
const PARTS = [
  [
    "Anywhere",
    [
      [["Ctrl", "K"], "Find a user; Enter opens the first one"],
      [["Ctrl", "Shift", "F"], "Search in the open conversation; Enter shows the newest match"],
      [["?"], "Show this help (outside of a text field)"],
    ],
  ],
  [
    "In the message field",
    [
      [["Enter"], "Send"],
      [["Shift", "Enter"], "Start a new line"],
      [["↑"], "Edit your last message, if the field is empty"],
      [["Esc"], "Cancel the edit or the reply"],
      [["Shift", "Tab"], "Go to the messages"],
    ],
  ],
  [
    "In the messages and in the lists",
    [
      [["↑"], "Go to the one above"],
      [["↓"], "Go to the one below"],
      [["Tab"], "Go to the buttons of a message"],
      [["Esc"], "Go back to the message field"],
    ],
  ],
  [
    "In a text",
    [
      [["`code`"], "Code within a line"],
      [["```"], "Alone in a line before and after a block of code"],
      [["https://"], "Begins a link"],
    ],
  ],
];

/** Open the dialog, unless one is open. It is removed when it is closed. */
export function openHelpDialog() {
  if (document.querySelector("dialog[open]")) return;
  const dialog = el(
    "dialog.account.help",
    { "aria-labelledby": "help-title" },
    el(
      "header",
      {},
      el("h2", { id: "help-title" }, "Help"),
      iconButton("close", "Close", () => dialog.close(), { autofocus: true }),
    ),
    ...PARTS.map(([title, rows]) => el("section", {}, el("h3", {}, title), keyList(rows))),
    el("p.other-pages", {}, ...otherPages()),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** @param {[string[], string][]} rows */
function keyList(rows) {
  const nodes = rows.flatMap(([keys, what]) => [
    el("dt", {}, ...keys.map((key) => el("kbd", {}, key))),
    el("dd", {}, what),
  ]);
  return el("dl", {}, ...nodes);
}
