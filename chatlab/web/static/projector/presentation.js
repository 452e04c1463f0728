/* The presentation clock: the one clock of the page. It follows the service's clock with a delay,
   and everything that is drawn is as it was at `at`, the moment of the tape that is presented.

   A request takes milliseconds. When one of our users makes one, the clock almost stands still,
   and the message travels through the diagram, one leg after the other. Between two requests the
   clock runs at the chosen speed. So nothing is shown before its cause, and no key is shown as gone
   before its time is over. */

/** @import { Leg } from "./legs.js" */
/** @import { Item, Story, Sweep, Tape, Value } from "./tape.js" */

import { legsOf } from "./legs.js";
import { Narrator } from "./narrator.js";
import { Picture } from "./picture.js";
import { WORKER } from "./words.js";

/** @typedef {"real" | "slow" | "step"} Speed */
/** @typedef {"send" | "life" | "worker" | "read"} View */

/**
 * What moves right now: a message in its diagram, or a round of the worker.
 *
 * @typedef {object} Trip
 * @property {View} view
 * @property {Story | null} story
 * @property {Sweep | null} sweep
 * @property {Leg[]} legs
 * @property {number} index - of the leg
 * @property {number} progress - of the leg, from 0 to 1
 * @property {boolean} hasEffect - the leg has reached its station
 */

const DELAY_MS = 300; // behind the service, so that all events of a moment have arrived
const LEG_MS = 1_100; // at speed 1
const EFFECT = 0.5; // the part of a leg after which the message is at the station
const HOLD_MS = 1_200; // after a trip
const STEP_MS = 900; // for the clock to reach the next stop
const [MAX_TRIPS, CROWDED_MS] = [3, 3_000]; // of more requests in this time, the first get no trip
const LEAD_MS = 400; // a quiet time is left out up to so long before what follows
const FACTORS = { real: 1, slow: 0.25, step: 1 };

export class Presentation {
  /** @type {number | null} */
  at = null;
  /** @type {Speed} */
  speed = "real";
  /** @type {Trip | null} */
  trip = null;
  isReplay = false;
  isWaiting = false; // in step mode: for the next step
  #index = 0; // of the next item of the tape
  #removed = 0;
  #countsSince = 0;
  #holdMs = 0;
  #isLeaving = false; // in step mode: the leg has ended, and the next one may begin
  /** @type {number | null} */
  #stop = null; // in step mode: where the clock goes
  #stepFrom = 0;
  /** @type {number | null} */
  #replayFrom = null; // where the newest story begins
  #endedBornAt = -1; // of the newest key whose end was shown as a trip

  /**
   * @param {Tape} tape
   * @param {object} about
   * @param {(user: string) => boolean} about.isHero - whose requests are shown as a trip
   * @param {(user: string) => string} about.name
   * @param {(user: string) => string} about.otherThan - the partner of a user
   * @param {string} about.beginning - the sentence before anything has happened
   * @param {(id: string) => string} about.textOf - the text of a message
   * @param {boolean} [about.hasArrivals] - the tape has what the users have received
   */
  constructor(tape, about) {
    this.tape = tape;
    this.about = about;
    this.narrator = new Narrator(about);
    this.picture = this.#newPicture();
  }

  get sentence() {
    return this.narrator.sentence;
  }

  get view() {
    return this.narrator.view;
  }

  /** Whether bars may run: Redis answered at the moment that is presented, and answers now. */
  get isRedisUp() {
    return this.picture.isRedisUp && this.tape.isRedisUp;
  }

  #newPicture() {
    const { textOf, otherThan, hasArrivals } = this.about;
    const isOwn = (/** @type {string} */ key) => this.tape.ownKeys.has(key);
    return new Picture(isOwn, textOf, hasArrivals ? null : otherThan);
  }

  /** How many milliseconds the picture is behind the service. */
  get behindMs() {
    return Math.max(0, this.tape.now() - DELAY_MS - (this.at ?? Infinity));
  }

  /**
   * What a key has at the moment that is presented, as far as it is known.
   *
   * @param {string} key
   * @returns {Value | null}
   */
  knownValueOf(key) {
    const at = this.at ?? 0;
    const isIt = (/** @type {Item} */ item) =>
      item.kind === "value" && item.key === key && item.at <= at;
    const found = this.tape.items.findLast(isIt);
    return found?.kind === "value" ? found.value : null;
  }

  // --- the controls ----------------------------------------------------------------------------

  /** @param {Speed} speed */
  setSpeed(speed) {
    this.speed = speed;
    this.isWaiting = speed === "step" && this.trip !== null;
    this.#isLeaving = false;
    this.#stop = null;
  }

  /** Continue with the next leg, or to the next moment that matters. */
  step() {
    if (this.speed !== "step") return this.setSpeed("step");
    this.#holdMs = Math.min(this.#holdMs, 1);
    this.#isLeaving = this.isWaiting && this.trip?.progress === 1;
    this.isWaiting = false;
    if (!this.trip) this.#stop = this.#nextStop();
    this.#stepFrom = this.at ?? 0;
  }

  /** Show the newest story again, from its beginning. */
  replay() {
    if (this.#replayFrom !== null) this.playFrom(this.#replayFrom);
  }

  /**
   * Play the tape again from this moment.
   *
   * @param {number} at
   */
  playFrom(at) {
    this.#goTo(at - LEAD_MS);
    this.isReplay = true;
  }

  /** Leave out everything up to the present. */
  skip() {
    this.#goTo(this.tape.now() - DELAY_MS);
  }

  /** Begin the numbers at 0. */
  reset() {
    this.#countsSince = this.at ?? 0;
    this.picture.resetCounts();
  }

  /** @param {number} at */
  #goTo(at) {
    this.picture = this.#newPicture();
    this.trip = null;
    this.isWaiting = this.isReplay = false;
    this.#stop = null;
    this.#holdMs = this.#index = 0;
    this.at = -Infinity;
    this.#advance(at, false);
    this.at = at;
    this.#endedBornAt = -1;
    this.narrator.restart();
  }

  // --- each frame ------------------------------------------------------------------------------

  /**
   * Let `ms` milliseconds pass on the screen.
   *
   * @param {number} ms
   */
  frame(ms) {
    this.tape.closeStale();
    // A request is shown as a whole, so the clock waits before a slow one until it is answered.
    const newest = Math.min(this.tape.now() - DELAY_MS, this.tape.openSince - 1);
    if (this.at === null && !this.tape.isSynchronized) return;
    this.at ??= newest;
    this.#index -= this.tape.removed - this.#removed;
    this.#removed = this.tape.removed;
    this.narrator.pass(ms);
    const passed = ms * FACTORS[this.speed];
    if (this.trip) this.#move(this.trip, passed);
    else if (this.#holdMs > 0) this.#hold(passed);
    else this.#run(passed, newest);
    if (this.behindMs < 1) this.isReplay = false;
    this.tape.floor = Math.max(this.tape.floor, this.at);
  }

  /** @param {number} ms */
  #hold(ms) {
    this.#holdMs -= ms;
    if (this.#holdMs <= 0) this.narrator.tellEnd(this.picture, this.isRedisUp);
  }

  /**
   * @param {number} ms
   * @param {number} newest
   */
  #run(ms, newest) {
    const at = this.at ?? newest;
    let target = Math.min(newest, at + ms);
    const mayHurry = this.speed === "step" || !this.narrator.waitMs;
    if (mayHurry && this.picture.isQuiet(at))
      target = Math.max(target, Math.min(newest, this.#nextEvent() - LEAD_MS));
    else if (this.speed === "step") target = this.#stepTarget(at, ms, newest);
    this.#advance(target, true);
  }

  /**
   * In step mode the clock goes to the next stop, quickly but visibly, and stands still there.
   *
   * @param {number} at
   * @param {number} ms
   * @param {number} newest
   */
  #stepTarget(at, ms, newest) {
    if (this.#stop === null) return at;
    if (this.#stop === Infinity) return newest; // until something happens
    const pace = Math.max(1, (this.#stop - this.#stepFrom) / STEP_MS);
    const target = Math.min(newest, this.#stop, at + ms * pace);
    if (target === this.#stop) this.#stop = null;
    return target;
  }

  /**
   * Apply the tape up to `target`, or up to what begins a trip.
   *
   * @param {number} target
   * @param {boolean} mayTravel
   */
  #advance(target, mayTravel) {
    const { items } = this.tape;
    while (this.#index < items.length && items[this.#index].at <= target) {
      const item = items[this.#index];
      if (mayTravel) this.#tellLife(item.at);
      this.at = Math.max(this.at ?? item.at, item.at);
      if (mayTravel && this.#begin(item)) return;
      this.#index += 1;
      this.#apply(item);
    }
    this.at = Math.max(this.at ?? target, target);
    if (mayTravel) this.#tellLife(this.at);
  }

  /** @param {number} at */
  #tellLife(at) {
    if (this.isRedisUp) this.narrator.tellLife(this.picture, at, this.speed !== "step");
  }

  /** @param {Item} item */
  #apply(item) {
    this.picture.apply(item);
    if (item.at < this.#countsSince) this.picture.resetCounts();
  }

  /** The time of the next item that a quiet picture must not pass unseen. */
  #nextEvent() {
    const matters = (/** @type {Item} */ { kind }) => kind === "story" || kind === "arrival";
    return this.tape.items.slice(this.#index).find(matters)?.at ?? Infinity;
  }

  /** The next moment at which there is something to say, or Infinity if it is not known yet. */
  #nextStop() {
    const at = this.at ?? 0;
    const { newest, sweeps } = this.picture;
    const stops = newest ? [newest.bornAt + 0.4 * newest.ttlMs, newest.deadline] : [];
    const isSeen = !newest || (sweeps.at(-1)?.at ?? 0) > newest.bornAt;
    const matters = (/** @type {Item} */ item) =>
      this.#isHero(item) || (item.kind === "sweep" && (item.cleaned > 0 || !isSeen));
    stops.push(this.tape.items.slice(this.#index).find(matters)?.at ?? Infinity);
    return Math.min(...stops.filter((stop) => stop > at + 1));
  }

  // --- trips -----------------------------------------------------------------------------------

  /** How many requests wait for their trip. */
  get waiting() {
    return this.#countHeroes(Infinity);
  }

  /**
   * Whether too many requests begin soon after this moment: they are only counted.
   *
   * @param {number} at
   */
  #isCrowded(at) {
    return this.#countHeroes(at + CROWDED_MS) > MAX_TRIPS;
  }

  /** @param {number} until */
  #countHeroes(until) {
    const { items } = this.tape;
    let count = 0;
    for (let place = this.#index; place < items.length && items[place].at < until; place += 1)
      if (this.#isHero(items[place])) count += 1;
    return count;
  }

  /** @param {Item} item */
  #isHero(item) {
    return item.kind === "story" && this.about.isHero(item.user);
  }

  /**
   * Begin the trip of this item, if it deserves one.
   *
   * @param {Item} item
   */
  #begin(item) {
    if (item.kind === "story" && this.#isHero(item) && !this.#isCrowded(item.at))
      this.#beginStory(item);
    else if (item.kind === "sweep" && this.#isEnd(item)) {
      const { waitMs } = this.narrator;
      if (waitMs && this.speed !== "step") {
        this.#holdMs = waitMs * FACTORS[this.speed]; // and then it begins
        return true;
      }
      this.#beginSweep(item);
    } else return false;
    this.#index += 1;
    this.narrator.tellLeg(/** @type {Trip} */ (this.trip), this.picture, this.tape.items);
    return true;
  }

  /** @param {Sweep} sweep */
  #isEnd({ cleaned }) {
    const { newest } = this.picture;
    return cleaned > 0 && newest?.state === "gone" && newest.bornAt !== this.#endedBornAt;
  }

  /** @param {Story} story */
  #beginStory(story) {
    this.tape.alignArrivals(story);
    const view = story.type === "read" ? "read" : "send";
    this.#startTrip({ view, story, sweep: null, legs: legsOf(story) });
    this.picture.begin(story);
    this.#replayFrom = story.at;
  }

  /** @param {Sweep} sweep */
  #beginSweep(sweep) {
    this.#endedBornAt = this.picture.newest?.bornAt ?? -1;
    const legs = WORKER.map((_, number) => ({
      stage: String(number),
      step: null,
      at: sweep.at,
      isSkipped: false,
    }));
    this.#startTrip({ view: "worker", story: null, sweep, legs });
  }

  /** @param {Pick<Trip, "view" | "story" | "sweep" | "legs">} trip */
  #startTrip(trip) {
    this.trip = { ...trip, index: 0, progress: 0, hasEffect: false };
    this.#stop = null;
    this.#holdMs = 0;
  }

  /**
   * @param {Trip} trip
   * @param {number} ms
   */
  #move(trip, ms) {
    if (this.isWaiting) return;
    trip.progress = Math.min(1, trip.progress + ms / LEG_MS);
    if (!trip.hasEffect && trip.progress >= EFFECT) this.#takeEffect(trip);
    if (trip.progress < 1) return;
    if (this.speed === "step" && !this.#isLeaving) {
      this.isWaiting = true;
      return;
    }
    this.#isLeaving = false;
    trip.index += 1;
    trip.progress = 0;
    trip.hasEffect = false;
    if (trip.index === trip.legs.length) this.#endTrip(trip);
    else this.narrator.tellLeg(/** @type {Trip} */ (this.trip), this.picture, this.tape.items);
  }

  /**
   * The message is at its station: show what happened there.
   *
   * @param {Trip} trip
   */
  #takeEffect(trip) {
    trip.hasEffect = true;
    const leg = trip.legs[trip.index];
    if (trip.story && leg.step) this.picture.pass(trip.story, leg.step);
    this.#advanceQuietly(leg.at);
  }

  /** @param {number} at */
  #advanceQuietly(at) {
    this.#advance(Math.max(at, this.at ?? at), false);
  }

  /** @param {Trip} trip */
  #endTrip({ story, sweep }) {
    if (story) this.picture.finish(story);
    if (sweep) this.picture.apply(sweep);
    this.trip = null;
    this.#holdMs = HOLD_MS;
  }
}
