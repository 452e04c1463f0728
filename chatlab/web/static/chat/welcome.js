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
import { describeError } from "./format.js";

// As in passwords.py.
const PASSWORD_RULE =
  "8 to 256 characters besides your name, and none of the most common passwords. A few words that do not belong together are good.";
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
      fields: [name("current"), password("current-password")],
      submit: (given) => api.logIn(given.username, given.password),
      other: ["New here?", "Create an account", () => swap(signingUp)],
    });
  /** @type {() => HTMLFormElement} */
  const signingUp = () =>
    form({
      title: "Create account",
      fields: [name("new"), displayName(), password("new-password")],
      submit: (given) => api.signUp(given.username, given.password, given.displayName.trim()),
      other: ["Already have an account?", "Log in", () => swap(loggingIn)],
    });
  const form = (/** @type {Form} */ parts) => makeForm(parts, problem, enter);
  card.append(problem, loggingIn());
  queueMicrotask(() => card.querySelector("input")?.focus());
  return el("div.welcome", {}, card);
}

/**
 * @param {Form} form
 * @param {HTMLElement} problem
 * @param {(session: Session) => void} enter
 */
function makeForm({ title, fields, submit, other }, problem, enter) {
  const button = el("button.primary", { type: "submit" }, title);
  const [question, answer, go] = other;
  const form = el(
    "form",
    { "aria-label": title },
    ...fields,
    button,
    el("p.aside", {}, `${question} `, el("button.link", { type: "button", onclick: go }, answer)),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    setText(problem, "");
    try {
      enter(await submit(Object.fromEntries(new FormData(form))));
    } catch (error) {
      setText(problem, describeError(error));
      button.disabled = false;
    }
  });
  return form;
}

/**
 * @param {string} label
 * @param {Attributes} attributes
 * @param {string} hint
 */
function field(label, attributes, hint = "") {
  const id = `field-${attributes.name}`;
  /** @type {Attributes} */
  const described = hint ? { "aria-describedby": `${id}-hint` } : {};
  const input = el("input", { id, required: true, ...described, ...attributes });
  return el(
    "div.field",
    {},
    el("label", { for: id }, label),
    input,
    ...(hint ? [el("small", { id: `${id}-hint` }, hint)] : []),
  );
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

function displayName() {
  return field(
    "Your name",
    { name: "displayName", autocomplete: "name", maxlength: "64", required: false },
    "As others see it (optional)",
  );
}

/** @param {"current-password" | "new-password"} autocomplete */
function password(autocomplete) {
  /** @type {Attributes} */
  const strict = autocomplete === "new-password" ? { minlength: "8" } : {};
  const attributes = {
    name: "password",
    type: "password",
    autocomplete,
    maxlength: "256",
    ...strict,
  };
  return field("Password", attributes, strict.minlength ? PASSWORD_RULE : "");
}
