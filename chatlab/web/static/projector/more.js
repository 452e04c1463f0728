/* The dialog “More”: the controls that are used less often than the buttons. */

/** @import { Controls, Settings } from "./controls.js" */

import { el, setText } from "../chat/dom.js";
import { request } from "./request.js";
import { MODES } from "./words.js";

const SLOW_FACTOR = 4;
const BURSTS = [50, 500, 2000];

export class MoreDialog {
  /** @param {Controls} controls */
  constructor(controls) {
    this.controls = controls;
    const { players } = controls.stage;
    this.modes = this.#buildModes();
    this.ttl = el("button", { type: "button", onclick: () => this.#toggleTtl() }, "");
    this.burstText = el("span", { role: "status" }, "");
    const isLocal = /^(localhost|127\.|\[::1)/.test(document.location.hostname);
    const advice = "Other devices reach the service only if it was started with --host 0.0.0.0.";
    this.advice = el("p", { hidden: !isLocal }, advice);
    this.viewers = el("input.p-address", { readonly: true, "aria-label": "Address for the class" });
    this.element = el(
      "dialog.p-more",
      { "aria-label": "More" },
      el("form", { method: "dialog" }, el("button.p-close", { "aria-label": "Close" }, "×")),
      ...(players ? this.#forPresenter() : []),
      el(
        "section.p-row",
        {},
        el(
          "button",
          { type: "button", onclick: () => this.controls.stage.presentation.reset() },
          "Begin the numbers at 0",
        ),
        this.#opener("k", "Keys in Redis"),
        ...(players ? [this.#opener("c", "Compare reads")] : []),
        ...(players ? [this.#saver()] : []),
      ),
    );
  }

  /**
   * A button that closes this dialog and does what the key does.
   *
   * @param {string} key
   * @param {string} title
   */
  #opener(key, title) {
    const open = () => {
      this.element.close();
      this.controls.keys[key]();
    };
    const letter = el("kbd", { "aria-hidden": "true" }, key.toUpperCase());
    return el("button", { type: "button", onclick: open }, title, letter);
  }

  #saver() {
    const save = () => this.controls.attempt(() => this.controls.stage.save());
    return el("button", { type: "button", onclick: save }, "Save a recording");
  }

  #forPresenter() {
    return [
      el("section", {}, el("h2", {}, "Write a message"), this.#writeForm()),
      el("section", {}, el("h2", {}, "Cache"), this.modes, this.ttl),
      el(
        "section",
        {},
        el("h2", {}, "Many messages at once"),
        this.#burstButtons(),
        this.burstText,
      ),
      el("section", {}, el("h2", {}, "Watch on another device"), this.viewers, this.advice),
    ];
  }

  #writeForm() {
    const text = el("input", {
      "aria-label": "Message",
      required: true,
      maxlength: "200",
      autocomplete: "off",
    });
    const submit = (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const isEdit =
        event.submitter instanceof HTMLButtonElement && event.submitter.value === "edit";
      this.element.close();
      if (isEdit) this.controls.edit(text.value);
      else this.controls.send("socket", text.value);
      text.value = "";
    };
    return el(
      "form.p-write",
      { onsubmit: submit },
      text,
      el("button", { value: "send" }, "Send"),
      el("button", { value: "edit" }, "Change the newest one"),
    );
  }

  #buildModes() {
    const choices = Object.entries(MODES).map(([mode, sentence]) => {
      const input = el("input", {
        type: "radio",
        name: "mode",
        value: mode,
        onchange: () => this.#change({ cacheMode: mode }),
      });
      return el("label", {}, input, sentence);
    });
    return el("fieldset.p-modes", {}, el("legend.p-unseen", {}, "Cache mode"), ...choices);
  }

  #burstButtons() {
    const start = async (/** @type {number} */ size) => {
      const { burst } = this.controls;
      if (burst.isRunning) return burst.stop();
      this.element.close();
      await this.controls.attempt(() => burst.run(size));
      setText(this.burstText, `${burst.done} messages were sent`);
    };
    return el(
      "span.p-row",
      {},
      ...BURSTS.map((size) =>
        el("button", { type: "button", onclick: () => start(size) }, String(size)),
      ),
    );
  }

  toggle() {
    if (this.element.open) this.element.close();
    else this.element.showModal();
  }

  #toggleTtl() {
    const { cacheTtl, usualTtl } = this.controls.settings;
    this.#change({ cacheTtl: cacheTtl === usualTtl ? usualTtl * SLOW_FACTOR : usualTtl });
  }

  /** @param {{cacheTtl?: number, cacheMode?: string}} wanted */
  async #change(wanted) {
    await this.controls.attempt(async () => {
      const { body } = await request("PUT", "api/lab/settings", {
        token: this.controls.stage.key,
        body: wanted,
      });
      this.controls.showSettings(body);
    });
    this.showSettings(this.controls.settings);
  }

  /** @param {Settings} settings */
  showSettings({ cacheTtl, usualTtl, cacheMode, canTurn, viewerKey }) {
    const other = cacheTtl === usualTtl ? usualTtl * SLOW_FACTOR : usualTtl;
    setText(this.ttl, `Keys live ${cacheTtl} s: make it ${other} s`);
    this.ttl.disabled = !canTurn;
    for (const input of this.modes.querySelectorAll("input")) {
      input.checked = input.value === cacheMode;
      input.disabled = !canTurn;
    }
    if (viewerKey) this.viewers.value = new URL(`lab#key=${viewerKey}`, document.baseURI).href;
  }
}
