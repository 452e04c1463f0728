/* Labelled fields and forms: to log in, to sign up, and to change an account. */

/** @import { Attributes } from "./dom.js" */

import { el, setText } from "./dom.js";
import { describeError } from "./format.js";

// As in passwords.py.
const PASSWORD_RULE =
  "8 to 256 characters besides your name, and none of the most common passwords. A few words that do not belong together are good.";

/**
 * @param {string} label
 * @param {Attributes} attributes - `name` is unique on the page
 * @param {string} hint
 */
export function field(label, attributes, hint = "") {
  const id = `field-${attributes.name}`;
  /** @type {Attributes} */
  const described = hint ? { "aria-describedby": `${id}-hint` } : {};
  const input = el("input", { id, required: true, ...described, ...attributes });
  return el(
    "div.field",
    {},
    el("label", { for: id }, label),
    el("div.entry", {}, input),
    ...(hint ? [el("small", { id: `${id}-hint` }, hint)] : []),
  );
}

/**
 * A password with a button that shows it.
 *
 * @param {string} label
 * @param {string} name
 * @param {"current-password" | "new-password"} autocomplete
 */
export function passwordField(label, name, autocomplete) {
  const isNew = autocomplete === "new-password";
  /** @type {Attributes} */
  const strict = isNew ? { minlength: "8" } : {};
  const attributes = { name, type: "password", autocomplete, maxlength: "256", ...strict };
  const node = field(label, attributes, isNew ? PASSWORD_RULE : "");
  const input = /** @type {HTMLInputElement} */ (node.querySelector("input"));
  const button = el(
    "button.link.show",
    { type: "button", "aria-pressed": "false" },
    "Show",
    el("span.unseen", {}, ` ${label.toLowerCase()}`),
  );
  const show = (/** @type {boolean} */ isShown) => {
    input.type = isShown ? "text" : "password";
    button.setAttribute("aria-pressed", String(isShown));
  };
  button.addEventListener("click", () => show(input.type === "password"));
  input.parentElement?.append(button);
  // Once it is submitted, the browser must recognise it as a password.
  queueMicrotask(() => input.form?.addEventListener("submit", () => show(false)));
  return node;
}

export function displayNameField(value = "") {
  const attributes = { name: "displayName", autocomplete: "name", maxlength: "64", value };
  return value
    ? field("Your name", attributes, "As others see it")
    : field("Your name", { ...attributes, required: false }, "As others see it (optional)");
}

/**
 * A form with one button. It shows errors of `submit` in `problem`.
 *
 * @template Result
 * @param {object} parts
 * @param {string} parts.title - of the form and its button
 * @param {string} [parts.look] - the class of the button
 * @param {HTMLElement[]} parts.fields
 * @param {(given: Record<string, any>) => Promise<Result>} parts.submit
 * @param {(result: Result, form: HTMLFormElement) => void} parts.done
 * @param {HTMLElement} problem
 */
export function makeForm({ title, look = "primary", fields, submit, done }, problem) {
  const button = el(`button.${look}`, { type: "submit" }, title);
  const form = /** @type {HTMLFormElement} */ (
    el("form", { "aria-label": title }, ...fields, button)
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    setText(problem, "");
    try {
      done(await submit(Object.fromEntries(new FormData(form))), form);
    } catch (error) {
      setText(problem, describeError(error));
    } finally {
      button.disabled = false;
    }
  });
  return form;
}
