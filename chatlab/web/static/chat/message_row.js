/* One message in the list, or one that waits to be sent. */

import { el, icon } from "./dom.js";
import { fullTime, plainly, timeOfDay } from "./words.js";

export class MessageRow {
  #drawn = "";

  /** `acts` has react, retry and discard. */
  constructor(key, acts) {
    this.acts = acts;
    this.content = el("div.content");
    this.body = el("div.body", {}, this.content); // the tools come here too
    this.element = el("li.message", { tabindex: "-1", "data-key": key }, this.body);
  }

  /** `item` is a message or a waiting one; `mine`, `read`, `follows` (close behind one of the same sender), `names` (id -> name), `me`. */
  draw(item, how) {
    const state = [item.version, item.state, item.error?.code, item.error?.detail, how.read, how.follows, Object.values(item.reactions ?? {})];
    const wanted = JSON.stringify(state);
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    this.item = item;
    this.#classes(item, how);
    const held = this.content.contains(document.activeElement);
    this.content.replaceChildren(...this.#parts(item, how));
    if (held) this.element.focus({ preventScroll: true });
  }

  #classes(item, { mine, follows }) {
    const flags = { mine, follows, deleted: Boolean(item.deletedAt), failed: item.state === "failed", sending: item.state === "sending" };
    for (const [name, on] of Object.entries(flags)) this.element.classList.toggle(name, on);
  }

  #parts(item, how) {
    const parts = [el("div.bubble", {}, speaker(how), text(item), meta(item, how))];
    if (item.reactions && Object.keys(item.reactions).length) parts.push(this.#reactions(item, how));
    if (item.state === "failed") parts.push(this.#failure(item));
    return parts;
  }

  #reactions(message, { names, me }) {
    const chips = Object.entries(message.reactions).map(([emoji, users]) => {
      const who = users.map((id) => (id === me ? "you" : names(id))).join(", ");
      const attributes = { type: "button", "aria-pressed": String(users.includes(me)), title: who, "aria-label": `${emoji} by ${who}` };
      const parts = [el("span.glyph", {}, emoji), el("span.times", {}, String(users.length))];
      return el("button.reaction", { ...attributes, onclick: () => this.acts.react(message, emoji) }, ...parts);
    });
    return el("div.reactions", { role: "group", "aria-label": "Reactions" }, ...chips);
  }

  #failure(waiting) {
    return el(
      "div.failure", { role: "alert" }, icon("alert"), el("span", {}, `Not sent. ${plainly(waiting.error)}`),
      el("button.link", { type: "button", onclick: () => this.acts.retry(waiting) }, "Try again"),
      el("button.link", { type: "button", onclick: () => this.acts.discard(waiting) }, "Discard"),
    );
  }
}

/** Who speaks, for those who do not see on which side it stands. */
function speaker({ mine, speaks }) {
  return el("span.unseen", {}, `${mine ? "You" : speaks}: `);
}

function text(item) {
  return el("p.text", { dir: "auto" }, item.deletedAt ? "Message deleted" : item.text);
}

function meta(item, { mine, read }) {
  const parts = [el("time", { datetime: item.createdAt, title: fullTime(item.createdAt) }, timeOfDay(item.createdAt))];
  if (item.editedAt && !item.deletedAt) parts.unshift(el("span.edited", { title: fullTime(item.editedAt) }, "edited"));
  if (mine && item.state !== "failed") parts.push(status(item.state ? "clock" : read ? "read" : "sent"));
  return el("span.meta", {}, ...parts);
}

const STATUS = { clock: "sending", sent: "sent", read: "read" };

function status(name) {
  return el(`span.status.${STATUS[name]}`, { title: STATUS[name] }, icon(name), el("span.unseen", {}, ` ${STATUS[name]}`));
}
