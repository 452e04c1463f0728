/* A recording: everything that the page has learned, in the order in which it came. */

/** @import { Settings } from "./controls.js" */
/** @import { Item, StageEvent, Tape } from "./tape.js" */

import { request } from "./request.js";

/**
 * @typedef {{event: StageEvent} | {item: Item}} Input
 *
 * @typedef {object} Recording
 * @property {1} version
 * @property {Settings} settings
 * @property {Input[]} inputs
 */

const MAX_INPUTS = 20_000;
const AFTER_MS = 1_000; // how long the recording continues after the last input

export class Recorder {
  /** @type {Input[]} */
  inputs = [];

  /** @param {Input} input */
  add(input) {
    this.inputs.push(input);
    if (this.inputs.length > 1.1 * MAX_INPUTS) this.inputs.splice(0, MAX_INPUTS / 10);
  }

  /**
   * Save the recording as one page that replays it.
   *
   * @param {string} key
   * @param {Settings} settings
   */
  async save(key, settings) {
    const { body } = await request("GET", "api/lab/player", { token: key });
    /** @type {Recording} */
    const recording = {
      version: 1,
      settings: { ...settings, canTurn: false, viewerKey: null },
      inputs: this.inputs,
    };
    const text = JSON.stringify(recording).replaceAll("<", "\\u003c");
    const page = body.page.replace(">null</script>", () => `>${text}</script>`);
    const address = URL.createObjectURL(new Blob([page], { type: "text/html" }));
    const link = document.createElement("a");
    Object.assign(link, { href: address, download: "chatlab-recording.html" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

const timeOf = (/** @type {Input} */ input) => ("event" in input ? input.event.at : input.item.at);

/** @param {Recording} recording */
export function boundsOf({ inputs }) {
  const times = inputs.map(timeOf);
  return { from: Math.min(...times), to: Math.max(...times) + AFTER_MS };
}

/**
 * @param {Tape} tape
 * @param {Recording} recording
 */
export function fill(tape, { inputs }) {
  for (const input of inputs.toSorted((a, b) => timeOf(a) - timeOf(b)))
    if ("event" in input) tape.add(input.event);
    else tape.put(input.item);
}
