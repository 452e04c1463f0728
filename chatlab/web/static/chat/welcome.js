/* The forms to log in and to sign up. */

import * as api from "./api.js";
import { el, setText } from "./dom.js";
import { describeError } from "./format.js";

const HANDLE = "[a-z0-9][a-z0-9_\\-]{0,31}";

/** The card with both forms. `enter` receives the session; `reason` explains why the user was logged out. */
export function welcomeCard(enter, reason) {
  const problem = el("p.trouble", { role: "alert" }, reason);
  const card = el(
    "main.card",
    {},
    el("img.logo", { src: "static/chat/icon.svg", alt: "", width: "52", height: "52" }),
    el("h1", {}, "chatlab"),
  );
  const swap = (make) => {
    setText(problem, "");
    const form = make();
    card.querySelector("form").replaceWith(form);
    form.querySelector("input").focus();
  };
  const loggingIn = () =>
    form({
      title: "Log in",
      fields: [name("current"), password("current-password")],
      submit: (given) => api.logIn(given.username, given.password),
      other: ["New here?", "Create an account", () => swap(signingUp)],
    });
  const signingUp = () =>
    form({
      title: "Create account",
      fields: [name("new"), displayName(), password("new-password")],
      submit: (given) => api.signUp(given.username, given.password, given.displayName.trim()),
      other: ["Already have an account?", "Log in", () => swap(loggingIn)],
    });
  const form = (parts) => makeForm(parts, problem, enter);
  card.append(problem, loggingIn());
  queueMicrotask(() => card.querySelector("input").focus());
  return el("div.welcome", {}, card);
}

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

function field(label, attributes, hint = "") {
  const id = `field-${attributes.name}`;
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

function name(kind) {
  const hint = "Lower-case letters, digits, - and _";
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

function password(autocomplete) {
  const strict = autocomplete === "new-password" ? { minlength: "8" } : {};
  const attributes = {
    name: "password",
    type: "password",
    autocomplete,
    maxlength: "256",
    ...strict,
  };
  return field("Password", attributes, strict.minlength ? "At least 8 characters" : "");
}
