/* The account settings: name, password, sessions, and the end of the account. */

/** @import { Api } from "./api.js" */
/** @import { Kind, Notifier } from "./notifier.js" */
/** @import { User } from "./session.js" */

/**
 * @typedef {object} LogInSession
 * @property {string} id
 * @property {string} createdAt
 * @property {string} lastUsedAt
 * @property {string} userAgent
 * @property {boolean} current
 *
 * @typedef {object} Handlers
 * @property {(user: User) => void} renamed
 * @property {() => void} deleted
 */

import { el, iconButton, setText } from "./dom.js";
import { displayNameField, makeForm, passwordField } from "./fields.js";
import { describeError, describeProgram, formatBriefTime } from "./format.js";

/**
 * Open the dialog. It is removed when it is closed.
 *
 * @param {User} me
 * @param {Api} api
 * @param {Notifier} notifier
 * @param {Handlers} handlers
 */
export function openAccountDialog(me, api, notifier, { renamed, deleted }) {
  /** @type {HTMLDialogElement} */
  const dialog = el(
    "dialog.account",
    { "aria-labelledby": "account-title" },
    el(
      "header",
      {},
      el("h2", { id: "account-title" }, "Account settings"),
      iconButton("close", "Close", () => dialog.close(), { autofocus: true }),
    ),
    nameSection(me, api, renamed),
    passwordSection(me, api),
    noticesSection(notifier),
    sessionsSection(api),
    deletionSection(me, api, () => {
      dialog.close();
      deleted();
    }),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * A part of the dialog, with a place for errors and one for successes.
 *
 * @param {string} title
 */
function section(title) {
  const problem = el("p.trouble", { role: "alert" });
  const success = el("p.success", { role: "status" });
  const element = el("section", {}, el("h3", {}, title), problem, success);
  return { element, problem, success };
}

/**
 * @param {User} me
 * @param {Api} api
 * @param {(user: User) => void} renamed
 */
function nameSection(me, api, renamed) {
  const { element, problem, success } = section("Name");
  const form = makeForm(
    {
      title: "Save name",
      fields: [displayNameField(me.displayName)],
      submit: (given) => api.rename(given.displayName),
      done: (user, { elements }) => {
        // invisible characters have been removed
        /** @type {any} */ (elements).displayName.value = user.displayName;
        setText(success, "Your name has been changed.");
        renamed(user);
      },
    },
    problem,
  );
  element.append(form);
  return element;
}

/**
 * @param {User} me
 * @param {Api} api
 */
function passwordSection(me, api) {
  const { element, problem, success } = section("Password");
  const form = makeForm(
    {
      title: "Change password",
      fields: [
        // for password managers
        el("input", { hidden: true, autocomplete: "username", value: me.id }),
        passwordField("Current password", "current", "current-password"),
        passwordField("New password", "new", "new-password"),
      ],
      submit: (given) => api.changePassword(given.current, given.new),
      done: (_, form) => {
        form.reset();
        setText(success, "Your password has been changed. All other sessions have ended.");
      },
    },
    problem,
  );
  element.append(form);
  return element;
}

/** @param {Notifier} notifier */
function noticesSection(notifier) {
  const { element, problem } = section("New messages");
  /**
   * @param {Kind} kind
   * @param {string} label
   */
  const choice = (kind, label) => {
    const box = el("input", { type: "checkbox" });
    box.checked = notifier.isOn(kind);
    box.addEventListener("change", async () => {
      const isDone = await notifier.set(kind, box.checked);
      if (!isDone) box.checked = false;
      setText(problem, isDone ? "" : "The browser does not allow this page to show notices.");
    });
    return el("label.choice", {}, box, el("span", {}, label));
  };
  element.append(
    el("p", {}, "In this browser, while you are not at this page:"),
    choice("desktop", "Show a notice on the desktop"),
    choice("sound", "Play a sound"),
  );
  return element;
}

/** @param {Api} api */
function sessionsSection(api) {
  const { element, problem, success } = section("Sessions");
  const list = el("ul.sessions", { role: "list" });
  const others = el(
    "button.secondary",
    { type: "button", hidden: true, onclick: () => end(() => api.endOtherSessions()) },
    "Log out everywhere else",
  );
  element.append(list, others);

  async function show() {
    const sessions = await api.sessions();
    others.hidden = sessions.length < 2;
    list.replaceChildren(
      ...sessions.map((one) => sessionRow(one, () => end(() => api.endSession(one.id)))),
    );
  }

  /** @param {() => Promise<unknown>} [action] */
  async function end(action) {
    setText(problem, "");
    setText(success, "");
    try {
      await action?.();
      await show();
      if (action) setText(success, "Done. Open pages of these sessions log out within seconds.");
    } catch (error) {
      setText(problem, describeError(error));
    }
  }

  end();
  return element;
}

/**
 * @param {LogInSession} session
 * @param {() => void} end
 */
function sessionRow({ createdAt, lastUsedAt, userAgent, current }, end) {
  const program = describeProgram(userAgent);
  const times = `Logged in ${formatBriefTime(createdAt)}, last used ${formatBriefTime(lastUsedAt)}`;
  return el(
    "li",
    {},
    el(
      "div.what",
      { title: userAgent },
      el("bdi", {}, program),
      current ? el("span.tag", {}, "this session") : "",
      el("small", {}, times),
    ),
    current
      ? ""
      : el(
          "button.link",
          { type: "button", onclick: end },
          "Log out",
          el("span.unseen", {}, ` the session of ${program}`),
        ),
  );
}

/**
 * @param {User} me
 * @param {Api} api
 * @param {() => void} deleted
 */
function deletionSection(me, api, deleted) {
  const { element, problem } = section("Delete account");
  const form = makeForm(
    {
      title: "Delete my account",
      look: "danger",
      fields: [passwordField("Password", "password", "current-password")],
      submit: (given) => api.deleteAccount(given.password),
      done: deleted,
    },
    problem,
  );
  form.hidden = true;
  const start = el(
    "button.secondary",
    {
      type: "button",
      onclick: () => {
        start.hidden = true;
        form.hidden = false;
        form.querySelector("input")?.focus();
      },
    },
    "Delete account…",
  );
  element.append(
    el(
      "p",
      {},
      "Your name, your password and all your sessions are removed at once. This cannot be undone.",
    ),
    el(
      "p",
      {},
      "Your messages stay in the conversations of the people you wrote to, under ",
      el("strong", {}, `@${me.id}`),
      ". Delete a message first if it should disappear. Notes to yourself are not removed either, but no user can read them.",
    ),
    el("p", {}, "Nobody can sign up with this user name again, not even you."),
    start,
    form,
  );
  return element;
}
