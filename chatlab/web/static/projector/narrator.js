/* The narrator: which sentence is said, and which flow is large. */

/** @import { Picture } from "./picture.js" */
/** @import { Trip, View } from "./presentation.js" */
/** @import { Item, Story } from "./tape.js" */

import { outcomeOf } from "./picture.js";
import { LIFE, sentenceOf, WORKER } from "./words.js";

const MIN_SHOWN_MS = 1_500; // of a sentence about the life of a key, before the next one

export class Narrator {
  /** @type {View} */
  view = "send";
  #sentence = "";
  #shownMs = 0; // of the sentence, on the screen
  /** @type {Set<string>} */
  #told = new Set(); // what is said only once

  /**
   * @param {object} about
   * @param {(user: string) => string} about.name
   * @param {(user: string) => string} about.otherThan
   * @param {string} about.beginning - the sentence before anything has happened
   */
  constructor(about) {
    this.about = about;
    this.sentence = about.beginning;
  }

  get sentence() {
    return this.#sentence;
  }

  set sentence(sentence) {
    this.#sentence = sentence;
    this.#shownMs = 0;
  }

  /** How many milliseconds more the sentence should stay. */
  get waitMs() {
    return Math.max(0, MIN_SHOWN_MS - this.#shownMs);
  }

  /**
   * The sentence has been on the screen for these milliseconds more.
   *
   * @param {number} ms
   */
  pass(ms) {
    this.#shownMs += ms;
  }

  /** Everything may be said again. */
  restart() {
    this.sentence = this.about.beginning;
    this.#told.clear();
  }

  /**
   * Say what happens in the current leg.
   *
   * @param {Trip} trip
   * @param {Picture} picture
   * @param {Item[]} items - of the tape
   */
  tellLeg(trip, picture, items) {
    this.view = trip.view;
    if (trip.sweep) this.sentence = WORKER[trip.index](trip.sweep);
    else if (trip.story) this.sentence = this.#sentenceOf(trip.story, trip, picture, items);
  }

  /**
   * @param {Story} story
   * @param {Trip} trip
   * @param {Picture} picture
   * @param {Item[]} items
   */
  #sentenceOf(story, { legs, index }, picture, items) {
    const { name, otherThan } = this.about;
    const cached = items.find((item) => item.kind === "cached" && item.at >= story.at);
    return sentenceOf(story, legs[index], {
      name,
      other: name(otherThan(story.user)),
      ttlMs: cached?.kind === "cached" ? cached.ttlMs : (picture.ttlMs ?? 5_000),
      outcome: outcomeOf(story),
      isRedisUp: picture.isRedisUp,
    });
  }

  /**
   * A trip has ended: turn to the life of the key, if there is one.
   *
   * @param {Picture} picture
   * @param {boolean} isRedisUp
   */
  tellEnd({ newest }, isRedisUp) {
    if (!newest || this.view === "read") return;
    if (this.view === "worker") this.#tell(`gone ${newest.bornAt}`, LIFE.gone());
    else if (newest.state === "live" && isRedisUp)
      this.#tell(`born ${newest.bornAt}`, LIFE.born(newest));
  }

  /**
   * Say what has happened to the newest key by this moment. With `isPatient`, people get the time to
   * read the sentence before.
   *
   * @param {Picture} picture
   * @param {number} at
   * @param {boolean} isPatient
   */
  tellLife({ newest, sweeps }, at, isPatient) {
    if (!newest || newest.state === "lost") return;
    const { bornAt, deadline, ttlMs } = newest;
    const isSwept = (sweeps.at(-1)?.at ?? 0) > bornAt;
    if (at >= deadline) this.#tell(`expired ${bornAt}`, LIFE.expired());
    else if (isPatient && this.waitMs) return;
    else if (isSwept && !this.#told.has(`swept ${bornAt}`))
      this.#tell(`swept ${bornAt}`, LIFE.swept());
    else if (at >= bornAt + 0.4 * ttlMs) this.#tell(`later ${bornAt}`, LIFE.later(newest));
  }

  /**
   * Say a sentence about the life of the key, once.
   *
   * @param {string} topic
   * @param {string} sentence
   */
  #tell(topic, sentence) {
    if (this.#told.has(topic)) return;
    this.#told.add(topic);
    this.sentence = sentence;
    this.view = "life";
  }
}
