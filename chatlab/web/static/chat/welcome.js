/* The forms to log in and to sign up. */

/** @import { Attributes } from "./dom.js" */
/** @import { Session } from "./session.js" */

/**
 * @typedef {object} Form
 * @property {string} title
 * @property {HTMLElement[]} fields
 * @property {(given: Record<string, any>) => Promise<Session>} submit
 * @property {[question: string, answer: string, go: () => void]} other - the way to the other form
 */

import * as api from "./api.js";
import { el, setText } from "./dom.js";
import { displayNameField, field, makeForm, passwordField } from "./fields.js";

const HANDLE = "[a-z0-9][a-z0-9_\\-]{0,31}";

/**
 * The card with both forms. `enter` receives the session; `reason` explains why the user was logged
 * out.
 *
 * @param {(session: Session) => void} enter
 * @param {string} reason
 */
export function welcomeCard(enter, reason) {
  const problem = el("p.trouble", { role: "alert" }, reason);
  const card = el(
    "main.card",
    {},
    el("img.logo", { src: "static/chat/icon.svg", alt: "", width: "52", height: "52" }),
    el("h1", {}, "chatlab"),
  );
  const swap = (/** @type {() => HTMLFormElement} */ make) => {
    setText(problem, "");
    const form = make();
    card.querySelector("form")?.replaceWith(form);
    form.querySelector("input")?.focus();
  };
  /** @type {() => HTMLFormElement} */
  const loggingIn = () =>
    form({
      title: "Log in",
      fields: [name("current"), passwordField("Password", "password", "current-password")],
      submit: (given) => api.logIn(given.username, given.password),
      other: ["New here?", "Create an account", () => swap(signingUp)],
    });
  /** @type {() => HTMLFormElement} */
  const signingUp = () =>
    form({
      title: "Create account",
      fields: [
        name("new"),
        displayNameField(),
        passwordField("Password", "password", "new-password"),
      ],
      submit: (given) => api.signUp(given.username, given.password, given.displayName.trim()),
      other: ["Already have an account?", "Log in", () => swap(loggingIn)],
    });
  const form = (/** @type {Form} */ { other: [question, answer, go], ...parts }) => {
    const made = makeForm({ ...parts, done: enter }, problem);
    const link = el("button.link", { type: "button", onclick: go }, answer);
    made.append(el("p.aside", {}, `${question} `, link));
    return made;
  };
  card.append(problem, loggingIn());
  queueMicrotask(() => card.querySelector("input")?.focus());
  return el("div.welcome", {}, card);
}

/** @param {"current" | "new"} kind */
function name(kind) {
  const hint = "Lower-case letters, digits, - and _";
  /** @type {Attributes} */
  const strict =
    kind === "new"
      ? {
          pattern: HANDLE,
          title: "1 to 32 lower-case letters, digits, - and _, starting with a letter or a digit",
        }
      : {};
  const input = {
    autocomplete: "username",
    autocapitalize: "none",
    spellcheck: "false",
    maxlength: "32",
    ...strict,
  };
  return field("User name", { name: "username", ...input }, kind === "new" ? hint : "");
}
