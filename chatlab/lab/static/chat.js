// The screens of two users. A typed message goes to the kernel, which sends it through the service.
// It appears on a screen when that screen's socket has received it. Each message shows the time
// until the other socket received it. A message that was typed here also shows the time from the
// press of Send until it was painted.
//
// Messages to the kernel: {do: "send", side, text, door, clientId} and {do: "typing", side,
// typing}.

/**
 * @typedef {"left" | "right"} Side
 * @typedef {Record<Side, Screen>} Model
 *
 * @typedef {object} Screen
 * @property {string} id - of the user
 * @property {boolean} open - connected
 * @property {boolean} typing - the other user is typing
 * @property {string} trouble
 * @property {Item[]} items
 *
 * @typedef {object} Item - a message
 * @property {string} _id
 * @property {string} senderId
 * @property {string} text
 * @property {string} clientId
 * @property {Record<string, string[]>} reactions - user ids by emoji
 * @property {string | null} editedAt
 * @property {string | null} deletedAt
 * @property {number | null} tookMs - until the other socket received it
 *
 * @typedef {{element: HTMLElement, text: HTMLElement, more: HTMLElement, took: HTMLElement, timed: boolean}} Row
 * @typedef {Map<string, {side: Side, at: number}>} Pressed - when Send was pressed, by client id
 */
/** @import { Options } from "./widget.js" */

import { add, say } from "../../web/static/lab/parts.js";

const QUIET_AFTER = 2000; // ms without a key press, after which the user is no longer typing

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {Options} options
 */
export default function chat(root, model, { big, tell }) {
  const desk = add(root, "section", "cl-chat cl-widget");
  desk.classList.toggle("cl-big", big);
  /** @type {Pressed} */
  const pressed = new Map();
  const left = newPane(desk, "left", model, tell, pressed);
  const right = newPane(desk, "right", model, tell, pressed);

  /** @param {Model} changed */
  function update(changed) {
    left.update(changed.left);
    right.update(changed.right);
  }

  function rest() {
    left.rest();
    right.rest();
  }

  update(model);
  return {
    update,
    rest,
    close() {
      rest();
      desk.remove();
    },
  };
}

/**
 * @param {Element} desk
 * @param {Side} side
 * @param {Model} model
 * @param {Options["tell"]} tell
 * @param {Pressed} pressed
 */
function newPane(desk, side, model, tell, pressed) {
  const name = model[side].id;
  const other = model[side === "left" ? "right" : "left"].id;
  const pane = add(desk, "section", "cl-pane");
  pane.dataset.side = side;
  pane.setAttribute("aria-label", `The screen of ${name}`);
  const head = add(pane, "header", "cl-whose");
  add(head, "strong", "", `${name}’s screen`);
  const state = add(head, "span", "cl-state", "");
  const log = add(pane, "ol", "cl-log");
  log.setAttribute("role", "log");
  log.setAttribute("aria-live", "polite");
  log.tabIndex = 0;
  const typing = add(pane, "p", "cl-typing", "");
  const form = add(pane, "form", "cl-compose");
  const input = add(form, "input", "cl-input");
  Object.assign(input, {
    type: "text",
    maxLength: 4000,
    placeholder: `${name} writes…`,
    autocomplete: "off",
  });
  input.setAttribute("aria-label", `${name} writes`);
  const send = add(form, "button", "cl-send", "Send");
  const doors = newDoors(form, side, name);
  const trouble = add(pane, "p", "cl-trouble", "");
  trouble.setAttribute("role", "alert");
  /** @type {Map<string, Row>} */
  const rows = new Map();
  let quiet = 0;
  let open = false;
  let resting = false;

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text || resting) return;
    const clientId = `pane-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
    pressed.set(clientId, { side, at: performance.now() });
    tell({ do: "send", side, text, door: doors(), clientId });
    input.value = "";
    types(false);
  });
  input.addEventListener("input", () => types(Boolean(input.value)));
  input.addEventListener("keydown", (event) => {
    // 229: an input method has used the key. Safari ends the composition before this event.
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    event.preventDefault(); // in JupyterLab the browser does not submit the form by itself
    form.requestSubmit();
  });

  /**
   * Report typing once when it starts and once when it ends.
   *
   * @param {boolean} typing
   */
  function types(typing) {
    const was = quiet !== 0;
    clearTimeout(quiet);
    quiet = typing ? setTimeout(() => types(false), QUIET_AFTER) : 0;
    if (was !== typing && !resting && open) tell({ do: "typing", side, typing });
  }

  /** @param {Screen} changed */
  function update(changed) {
    open = changed.open;
    pane.classList.toggle("cl-open", open);
    say(state, open ? "connected" : "not connected");
    say(typing, changed.typing ? `${other} is typing…` : "");
    say(trouble, changed.trouble);
    trouble.hidden = !changed.trouble;
    const known = new Set(changed.items.map((item) => item._id));
    for (const [id, row] of rows) if (!known.has(id)) forget(id, row);
    const before = rows.size;
    for (const item of changed.items) show(item);
    if (rows.size !== before) log.scrollTop = log.scrollHeight;
  }

  /**
   * @param {string} id
   * @param {Row} row
   */
  function forget(id, row) {
    row.element.remove();
    rows.delete(id);
  }

  /** @param {Item} item */
  function show(item) {
    const row = rows.get(item._id) ?? newRow(item);
    row.element.classList.toggle("cl-deleted", Boolean(item.deletedAt));
    say(row.text, item.deletedAt ? "deleted" : item.text);
    say(
      row.more,
      [
        item.editedAt && !item.deletedAt ? "edited" : "",
        ...Object.entries(item.reactions).map(([emoji, who]) => `${emoji} ${who.length}`),
      ]
        .filter(Boolean)
        .join(" "),
    );
    if (!row.timed) timed(row, item);
  }

  /** @param {Item} item */
  function newRow(item) {
    const element = add(log, "li", `cl-message ${item.senderId === name ? "cl-own" : "cl-theirs"}`);
    const row = {
      element,
      text: add(element, "span", "cl-text-of-it", ""),
      more: add(element, "span", "cl-more-of-it", ""),
      took: add(element, "span", "cl-took", ""),
      timed: false,
    };
    rows.set(item._id, row);
    return row;
  }

  /**
   * @param {Row} row
   * @param {Item} item
   */
  function timed(row, item) {
    row.timed = true;
    const click = pressed.get(item.clientId);
    if (item.senderId === name) return;
    const received = item.tookMs === null ? "asked for later" : `received after ${ms(item.tookMs)}`;
    say(row.took, received);
    row.took.title =
      "received: from the send to this screen’s socket; shown: from the press of Send to this picture, Jupyter’s part included";
    if (click)
      afterPaint(() =>
        say(row.took, `${received}, shown after ${ms(performance.now() - click.at)}`),
      );
  }

  return {
    update,
    rest() {
      resting = true;
      clearTimeout(quiet);
      input.disabled = send.disabled = true;
    },
  };
}

const ms = (/** @type {number} */ time) => `${time < 10 ? time.toFixed(1) : time.toFixed(0)} ms`;
const afterPaint = (/** @type {() => void} */ act) =>
  requestAnimationFrame(() => requestAnimationFrame(act));

/**
 * Add the choice of HTTP or socket; return a function that returns the chosen one.
 *
 * @param {Element} form
 * @param {Side} side
 * @param {string} name
 */
function newDoors(form, side, name) {
  const group = add(form, "span", "cl-switch");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", `The door of ${name}`);
  const radio = `cl-door-${side}-${Math.random().toString(36).slice(2)}`;
  const choices = Object.entries({ http: "HTTP", socket: "socket" }).map(([door, word]) => {
    const label = add(group, "label", "cl-choice");
    const choice = add(label, "input", "");
    Object.assign(choice, { type: "radio", name: radio, value: door, checked: door === "http" });
    label.append(word);
    return choice;
  });
  return () => choices.find((choice) => choice.checked)?.value;
}
