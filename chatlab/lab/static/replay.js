// One send as the page /lab tells it: the same scenes, sentences and clock. The kernel adds the
// events that follow, until the sweeper has logged the key.

/** @import { Speed, View } from "../../web/static/projector/presentation.js" */
/** @import { StageEvent } from "../../web/static/projector/tape.js" */
/** @import { Options } from "./widget.js" */

import { el } from "../../web/static/chat/dom.js";
import { add, animation, say } from "../../web/static/lab/parts.js";
import { Presentation } from "../../web/static/projector/presentation.js";
import { Tape } from "../../web/static/projector/tape.js";
import { SCENES } from "../../web/static/projector/views.js";
import { shortKey } from "../../web/static/projector/words.js";

/**
 * `id` is that of the message.
 *
 * @typedef {{id: string, text: string, sender: string, receiver: string}} About
 */

const AFTER_MS = 1_000; // how long the story continues after the last event
const MAX_FRAME_MS = 100;
/** @type {[Speed, string][]} */
const SPEEDS = [
  ["real", "Real time"],
  ["slow", "¼"],
  ["step", "Step"],
];

/** How a sentence calls a user, also at its beginning. The names in keys stay as they are. */
const nameOf = (/** @type {string} */ user) => user.charAt(0).toUpperCase() + user.slice(1);

/**
 * @param {HTMLElement} root
 * @param {{events: StageEvent[]}} model
 * @param {Omit<Options, "about"> & {about: About}} options
 */
export default function replay(root, model, { about, big }) {
  const { id, text, sender, receiver } = about;
  let end = 0;
  let known = 0;
  const tape = new Tape(
    (user) => user === sender || user === receiver,
    () => end,
  );
  tape.clockOffset = 0; // all times are those of the service
  const presentation = new Presentation(tape, {
    name: nameOf,
    isHero: () => true,
    otherThan: (user) => (user === sender ? receiver : sender),
    textOf: (other) => (other === id ? text : "Message"),
    beginning: "A message goes on its way.",
  });
  const widget = add(root, "section", "cl-widget cl-replay");
  widget.classList.toggle("cl-big", big);
  const sentence = add(widget, "p", "cl-sentence");
  sentence.setAttribute("role", "status");
  const short = (/** @type {string} */ key) => shortKey(key, (user) => user);
  const people = {
    left: sender,
    right: receiver,
    name: nameOf,
    short,
  };
  const scenes = Object.entries(SCENES).map(([view, scene]) => ({ view, ...scene(people, false) }));
  widget.append(...scenes.map(({ svg }) => svg));
  const speeds = SPEEDS.map(([speed, title]) => button(title, () => presentation.setSpeed(speed)));
  widget.append(
    el(
      "div.cl-row",
      { role: "toolbar", "aria-label": "Speed" },
      ...speeds,
      button("Next", () => presentation.step()),
      button("Again", () => presentation.playFrom(model.events[0].at)),
    ),
  );

  let frameAt = performance.now();
  const moving = animation(() => {
    const now = performance.now();
    presentation.frame(Math.min(now - frameAt, MAX_FRAME_MS));
    frameAt = now;
    draw();
    return presentation.trip !== null || presentation.behindMs >= 1;
  });

  function draw() {
    say(sentence, presentation.sentence);
    for (const scene of scenes) {
      const isShown = scene.view === presentation.view;
      scene.svg.style.display = isShown ? "" : "none";
      if (isShown) scene.draw(presentation);
    }
    SPEEDS.forEach(([speed], place) => {
      speeds[place].setAttribute("aria-pressed", String(speed === presentation.speed));
    });
  }

  /**
   * @param {string} title
   * @param {() => void} act
   */
  function button(title, act) {
    const onclick = () => {
      act();
      begin();
    };
    return el("button", { type: "button", onclick }, title);
  }

  function begin() {
    frameAt = performance.now();
    moving.begin();
  }

  /** @param {{events: StageEvent[]}} changed */
  function update({ events }) {
    for (const event of events.slice(known)) {
      tape.add(event);
      end = Math.max(end, event.at + AFTER_MS);
    }
    known = events.length;
    begin();
  }

  update(model);
  presentation.playFrom(model.events[0].at);
  return { update, close: moving.close };
}
