/* The list of people. */

import { arrange, el, icon, iconButton, say } from "./dom.js";
import { briefTime, initials, tint } from "./words.js";

export function avatar(person) {
  return el(`span.avatar.${tint(person.id)}`, { "aria-hidden": "true" }, person.self ? icon("note") : initials(person.displayName));
}

export const nameOf = (person) => (person.self ? `${person.displayName} (you)` : person.displayName);

export class PeopleView {
  #rows = new Map(); // user id -> row

  constructor(people, leave) {
    this.people = people;
    this.list = el("ul.people", { role: "list" });
    this.filter = el("input", {
      type: "search", placeholder: "Find somebody", "aria-label": "Find somebody", autocomplete: "off", oninput: () => this.draw(this.openId),
    });
    this.nobody = el("p.nobody", { role: "status" });
    const me = people.me;
    this.element = el(
      "nav.side", { "aria-label": "Conversations" },
      el(
        "header.me", {}, avatar(me),
        el("div.who", {}, el("strong", {}, me.displayName), el("small", {}, `@${me.id}`)),
        iconButton("leave", "Log out", leave),
      ),
      el("div.filter", {}, icon("search"), this.filter),
      this.list, this.nobody,
    );
  }

  draw(openId) {
    this.openId = openId;
    const wanted = this.filter.value.trim().toLowerCase();
    const found = this.people.sorted().filter(({ id, displayName }) => !wanted || id.includes(wanted) || displayName.toLowerCase().includes(wanted));
    arrange(this.list, found.map((person) => this.#row(person)));
    say(this.nobody, this.#emptiness(found));
  }

  #emptiness(found) {
    if (!this.people.loaded) return "Loading…";
    if (!found.length) return "Nobody has that name.";
    return this.people.byId.size === 1 ? "Nobody else is here yet. Whoever signs up appears here." : "";
  }

  #row(person) {
    if (!this.#rows.has(person.id)) this.#rows.set(person.id, new Row(person));
    const row = this.#rows.get(person.id);
    row.draw(person, this.people, person.id === this.openId);
    return row.element;
  }
}

class Row {
  constructor(person) {
    this.dot = el("span.dot", { hidden: true }, el("span.unseen", {}, "online"));
    this.name = el("span.name");
    this.time = el("time");
    this.preview = el("span.preview");
    this.badge = el("span.badge", { hidden: true });
    this.link = el(
      "a", { href: `#/${person.id}`, "data-user": person.id },
      el("span.face", {}, avatar(person), this.dot), this.name, this.time, this.preview, this.badge,
    );
    this.element = el("li", {}, this.link);
  }

  draw(person, people, open) {
    const { lastMessage: last, unread } = person;
    const typing = people.typing.has(person.id);
    this.dot.hidden = !person.online || Boolean(person.self);
    say(this.name, nameOf(person));
    this.name.title = nameOf(person);
    say(this.time, last ? briefTime(last.createdAt) : "");
    say(this.preview, typing ? "typing…" : preview(last, person, people.me));
    this.preview.classList.toggle("typing", typing);
    this.badge.hidden = !unread;
    this.badge.replaceChildren(unread > 99 ? "99+" : String(unread), el("span.unseen", {}, " unread"));
    this.link.classList.toggle("unread", unread > 0);
    if (open) this.link.setAttribute("aria-current", "page");
    else this.link.removeAttribute("aria-current");
  }
}

function preview(last, person, me) {
  if (!last) return person.self ? "Notes to yourself" : `@${person.id}`;
  const text = last.deletedAt ? "Message deleted" : last.text.slice(0, 120);
  return last.senderId === me.id && !person.self ? `You: ${text}` : text;
}
