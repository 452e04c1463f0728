/* The page of somebody who may see it: what happens and why in one sentence, one large flow, the
   others small beside it, the numbers, and for the presenter the controls. Everything is drawn from
   the presentation, once a frame. */

/** @import { Settings } from "./controls.js" */
/** @import { Handlers } from "./flow_socket.js" */
/** @import { Players } from "./players.js" */
/** @import { Recording } from "./recording.js" */
/** @import { Item, Message, StageEvent, Story, Value } from "./tape.js" */

import { el, setText } from "../chat/dom.js";
import { Controls } from "./controls.js";
import { writtenKeys } from "./legs.js";
import { COUNTED, Numbers } from "./numbers.js";
import { Presentation } from "./presentation.js";
import { boundsOf, fill, Recorder } from "./recording.js";
import { request } from "./request.js";
import { Tape } from "./tape.js";
import { Views } from "./views.js";
import { BEGINNING } from "./words.js";

const KEYS_INTERVAL_MS = 1_000; // between two requests for the keys
const KEYS_INTERVAL_VIEWER_MS = 5_000;
const KEYS_MIN_INTERVAL_MS = 250; // also while messages are sent
const MAX_FRAME_MS = 100;

/**
 * What a page shows: a service, or a recording.
 *
 * @typedef {object} Source
 * @property {Settings} settings
 * @property {string} [key] - of the page
 * @property {Players | null} [players] - null for somebody who may only watch
 * @property {(handlers: Handlers) => () => void} [watch] - receives the stage events of the service
 * @property {() => void} [refused] - the service does not know the key any more
 * @property {Recording} [recording]
 */

export class Stage {
  #closed = false;
  #frameAt = performance.now();
  #askAt = -Infinity; // for the keys, the next time
  #answeredAt = -Infinity;
  #isAsking = false;
  /** @type {Map<string, string>} */
  #texts = new Map(); // of messages, by their id

  /** @param {Source} source */
  constructor({ settings, key = "", players = null, watch, refused = () => {}, recording }) {
    this.key = key;
    this.players = players;
    this.refused = refused;
    this.watch = watch;
    this.recording = recording;
    this.recorder = new Recorder();
    const users = settings.users.slice(0, COUNTED);
    const names = new Map(users.map(({ id, displayName }) => [id, displayName]));
    const [left, right] = settings.users.map(({ id }) => id);
    const name = (/** @type {string} */ id) => names.get(id) ?? id;
    const bounds = recording && boundsOf(recording);
    this.tape = new Tape((user) => names.has(user), bounds ? () => bounds.to : Date.now);
    this.presentation = new Presentation(this.tape, {
      name,
      isHero: (user) => user === left || user === right,
      otherThan: (user) => (user === left ? right : left),
      beginning: players ? BEGINNING.presenter : BEGINNING.viewer,
      hasArrivals: players !== null || recording !== undefined,
      textOf: (id) => this.#texts.get(id) ?? "Message",
    });
    this.sentence = el("p.p-sentence", { role: "status" });
    this.views = new Views(this.presentation, { left, right, name }, (clicked) =>
      this.controls.keysDialog.openKey(clicked),
    );
    this.numbers = new Numbers(this.presentation);
    this.controls = new Controls(this, settings);
    this.element = el(
      "div.p-stage",
      {},
      this.controls.element,
      el(
        "section.p-say",
        { "aria-label": "What happens" },
        this.sentence,
        this.controls.status,
        this.controls.label,
      ),
      this.views.element,
      el("footer", {}, this.numbers.element),
    );
  }

  open() {
    if (this.recording) this.#openRecording(this.recording);
    else this.#openService();
    this.controls.open();
    document.addEventListener("visibilitychange", this.#shown);
    this.#frame(performance.now());
  }

  /** @param {Recording} recording */
  #openRecording(recording) {
    for (const input of recording.inputs)
      if ("item" in input && input.item.kind === "arrival") this.remember(input.item.message);
    this.tape.clockOffset = 0;
    fill(this.tape, recording);
    this.again();
  }

  #openService() {
    const showConnection = (/** @type {boolean} */ connected) => {
      this.controls.showConnection(connected);
      this.controls.actions.begin();
    };
    this.stopWatching = this.watch?.({
      event: (event) => this.#happened(event),
      connected: () => showConnection(true),
      lost: () => showConnection(false),
      ended: () => this.refused(),
    });
    if (!this.players) return;
    for (const player of [this.players.left, this.players.right])
      player.listen((message) => this.#arrived(player.id, message));
  }

  /** Show the newest story again, or the whole recording. */
  again() {
    if (this.recording) this.presentation.playFrom(boundsOf(this.recording).from);
    else this.presentation.replay();
  }

  save() {
    return this.recorder.save(this.key, this.controls.settings);
  }

  /** A page that was hidden has not been drawn: it continues with the present. */
  #shown = () => {
    if (!document.hidden && !this.recording) this.presentation.skip();
  };

  close() {
    this.#closed = true;
    document.removeEventListener("visibilitychange", this.#shown);
    this.stopWatching?.();
    this.controls.close();
    this.views.close();
    const { left, right, crowd } = this.players ?? { crowd: [] };
    for (const player of [left, right, ...crowd]) player?.close();
  }

  /** @param {Message} message */
  remember({ _id, text }) {
    this.#texts.set(_id, text);
  }

  /**
   * A request of one of our users got no answer from MongoDB.
   *
   * @param {Pick<Story, "type" | "door" | "user">} request
   */
  failed(request) {
    const story = this.tape.failed(request);
    if (story) this.#put(story);
  }

  /** @param {StageEvent} event */
  #happened(event) {
    const story = this.tape.add(event);
    this.recorder.add({ event });
    if (story && this.players && this.presentation.about.isHero(story.user))
      this.#keepWritten(story);
    if (event.stage === "cache_conversation") this.#askAt = this.#answeredAt + KEYS_MIN_INTERVAL_MS; // the conversation may have a new TTL
  }

  /**
   * @param {string} screen
   * @param {Message} message
   */
  #arrived(screen, message) {
    this.#put({ kind: "arrival", at: this.tape.now(), screen, message });
  }

  /** @param {Item} item */
  #put(item) {
    this.tape.put(item);
    this.recorder.add({ item });
  }

  /**
   * Keep the values of the keys that a request has written: when the picture gets there, Redis may
   * have them no more.
   *
   * @param {Story} story
   */
  async #keepWritten(story) {
    const written = writtenKeys(story);
    if (written.size) await this.keepValues(written).catch(() => {}); // the dialog says why
  }

  /**
   * Put the values that these keys have now on the tape, each at its moment. Only the presenter may
   * know them.
   *
   * @param {Map<string, number>} moments - by key
   */
  async keepValues(moments) {
    const query = new URLSearchParams([...moments.keys()].map((key) => ["key", key]));
    const { body } = await request("GET", `api/lab/values?${query}`, { token: this.key });
    for (const [key, value] of Object.entries(/** @type {Record<string, Value>} */ (body)))
      this.#put({ kind: "value", at: moments.get(key) ?? this.tape.now(), key, value });
  }

  // --- each frame ------------------------------------------------------------------------------

  /** @param {number} now */
  #frame(now) {
    if (this.#closed) return;
    requestAnimationFrame((next) => this.#frame(next));
    const passed = now - this.#frameAt;
    this.#frameAt = now;
    this.presentation.frame(Math.max(0, Math.min(passed, MAX_FRAME_MS)));
    setText(this.sentence, this.presentation.sentence);
    this.views.draw();
    this.numbers.draw();
    this.controls.draw();
    if (!this.recording && !this.#isAsking && now > this.#askAt) this.#askForKeys();
  }

  /** Ask which keys Redis has: no event says when a conversation expires. */
  async #askForKeys() {
    this.#isAsking = true;
    const interval = this.players ? KEYS_INTERVAL_MS : KEYS_INTERVAL_VIEWER_MS;
    this.#askAt = performance.now() + interval;
    const since = this.tape.now();
    try {
      const { body } = await request("GET", "api/lab/keys", { token: this.key });
      const { at, keys, live, settings } = body;
      this.tape.clockOffset = Math.min(this.tape.clockOffset, Date.now() - at);
      const isWhole = keys !== null && live === Object.keys(keys).length;
      this.#put({ kind: "keys", at, keys, isWhole, ttlMs: settings.cacheTtl * 1000, since });
      this.controls.showSettings(settings);
      this.tape.isRedisUp = keys !== null;
      this.controls.showRedis(keys !== null);
    } catch (error) {
      if (error.code === "unauthenticated") this.refused();
      if (error.code === "offline") this.tape.isRedisUp = false;
    }
    this.#isAsking = false;
    this.#answeredAt = performance.now();
    this.#askAt = Math.max(this.#askAt, this.#answeredAt + KEYS_MIN_INTERVAL_MS);
  }
}
