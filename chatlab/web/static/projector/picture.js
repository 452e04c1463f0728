/* The picture: everything that is drawn, as it was at one moment of the tape. Items are applied in
   the order of the tape, so the same items always give the same picture. */

/** @import { Arrival, Cleaned, Item, Keys, Message, Outcome, StageEvent, Story, Sweep } from "./tape.js" */

/**
 * @typedef {object} Key
 * @property {string} key
 * @property {number} bornAt
 * @property {number} deadline
 * @property {number} ttlMs
 * @property {"live" | "expired" | "gone" | "lost"} state - `gone`: the worker has logged it
 * @property {number} [endedAt]
 *
 * @typedef {{id: string, text: string, mine: boolean, isSent: boolean, reactions: string}} Bubble
 *
 * @typedef {object} Act - the newest request of its type, as far as it is presented
 * @property {Story} story
 * @property {Record<string, number>} took - milliseconds, of the stages that were reached
 * @property {boolean} done
 *
 * @typedef {{text: "Cache hit" | "Cache cleaned", key: string, leftMs: number | null}} LogLine
 *
 * @typedef {{sent: number, changed: number, read: number, hit: number, partial: number, miss: number, bypass: number, failed: number}} Counts
 */

const ZERO = { sent: 0, changed: 0, read: 0, hit: 0, partial: 0, miss: 0, bypass: 0, failed: 0 };
const TOLERANCE_MS = 200; // a TTL in Redis that differs by more is another one
const MAX_BUBBLES = 6;
const KEPT_MS = 4_000; // keys that have ended stay for so long
const MAX_SWEEPS = 40;
const MAX_LINES = 3; // of the log

export const isMessageKey = (/** @type {string} */ key) => /(^|:)message:[0-9a-f]{24}$/.test(key);

export class Picture {
  /** @type {Map<string, Key>} */
  keys = new Map();
  /** @type {Record<string, Bubble[]>} */
  screens = {}; // by user
  /** @type {Counts} */
  counts = { ...ZERO };
  /** @type {Record<string, Act>} */
  acts = {}; // by type
  /** @type {Sweep[]} */
  sweeps = [];
  /** @type {LogLine[]} */
  log = []; // of the worker, about the keys of our users
  isRedisUp = true;
  isMongoUp = true; // as far as the last request knows
  hasCached = false; // whether there ever was a key
  /** @type {Key | null} */
  newest = null; // the newest message entry of our users

  /**
   * @param {(key: string) => boolean} isOwn
   * @param {(id: string) => string} textOf - the text of a message
   * @param {((user: string) => string) | null} receiverOf - null if the tape has what arrived
   */
  constructor(isOwn, textOf, receiverOf) {
    this.isOwn = isOwn;
    this.textOf = textOf;
    this.receiverOf = receiverOf;
  }

  /** @param {Item} item */
  apply(item) {
    if (item.kind === "story") this.#applyStory(item);
    else if (item.kind === "cached")
      this.#addKey(item.key, item.at, item.at + item.ttlMs, item.ttlMs);
    else if (item.kind === "expired") this.#end(item.key, "expired", item.deadline);
    else if (item.kind === "cleaned") this.#end(item.key, "gone", item.at);
    else if (item.kind === "sweep") this.#applySweep(item);
    else if (item.kind === "arrival") this.#applyArrival(item);
    else if (item.kind === "keys") this.#applyKeys(item);
  }

  // --- requests ------------------------------------------------------------------------------

  /** @param {Story} story */
  #applyStory(story) {
    this.begin(story);
    for (const step of story.steps) this.pass(story, step);
    this.finish(story);
  }

  /** @param {Story} story */
  begin(story) {
    this.acts[story.type] = { story, took: {}, done: false };
    const saved = story.steps.find(({ stage }) => stage === "save");
    if (story.type === "send") this.#addBubble(story.user, saved?.messageId ?? story.trace, true);
  }

  /**
   * The request has reached this stage.
   *
   * @param {Story} story
   * @param {StageEvent} step
   */
  pass(story, step) {
    const act = this.acts[story.type];
    if (act.story.trace === story.trace) act.took[step.stage] = step.tookMs;
    const ttlMs = this.#ttlMs();
    const fills = step.stage === "read_store" && outcomeOf(story) === "miss";
    const key = fills ? story.steps.find(({ stage }) => stage === "read_cache")?.key : step.key;
    if (key && (fills || step.stage === "cache_conversation") && !this.isLive(key, step.at))
      this.#addKey(key, step.at, step.at + ttlMs, ttlMs);
    if (step.stage === "emit" && story.type === "send" && this.receiverOf)
      this.#addBubble(this.receiverOf(story.user), step.messageId ?? "", false);
    if (step.stage === "save" || step.stage === "read_store") this.isMongoUp = true;
    if (step.stage === "respond") {
      const bubble = this.screens[story.user]?.find(({ id }) => id === step.messageId);
      if (bubble) bubble.isSent = true;
    }
  }

  /** @param {Story} story */
  finish(story) {
    const act = this.acts[story.type];
    if (act.story.trace === story.trace) act.done = true;
    if (story.failed) {
      this.counts.failed += 1;
      this.isMongoUp = false;
    } else if (story.type === "send") this.counts.sent += 1;
    else if (story.type === "change") this.counts.changed += 1;
    else {
      this.counts.read += 1;
      const outcome = outcomeOf(story);
      if (outcome && outcome !== "stale") this.counts[outcome] += 1;
    }
  }

  resetCounts() {
    Object.assign(this.counts, ZERO);
  }

  // --- screens -------------------------------------------------------------------------------

  /**
   * @param {string} user
   * @param {string} id
   * @param {boolean} mine
   */
  #addBubble(user, id, mine, text = this.textOf(id)) {
    this.screens[user] ??= [];
    const bubbles = this.screens[user];
    if (bubbles.some((bubble) => bubble.id === id)) return;
    bubbles.push({ id, text, mine, isSent: !mine, reactions: "" });
    if (bubbles.length > MAX_BUBBLES) bubbles.shift();
  }

  /** @param {Arrival} item */
  #applyArrival({ screen, message }) {
    const mine = message.senderId === screen;
    if (!mine && message.version === 1) this.#addBubble(screen, message._id, false, message.text);
    const bubble = this.screens[screen]?.find(({ id }) => id === message._id);
    if (!bubble) return;
    bubble.text = message.deletedAt ? "deleted" : message.text;
    bubble.reactions = Object.keys(message.reactions).join("");
  }

  // --- keys ----------------------------------------------------------------------------------

  #ttlMs() {
    return this.newest?.ttlMs ?? this.ttlMs ?? 5_000;
  }

  /** @type {number | undefined} */
  ttlMs;

  /**
   * @param {string} key
   * @param {number} bornAt
   * @param {number} deadline
   * @param {number} ttlMs
   */
  #addKey(key, bornAt, deadline, ttlMs) {
    this.hasCached = true;
    this.keys.delete(key); // so that the newest key is the last one
    /** @type {Key} */
    const item = { key, bornAt, deadline, ttlMs, state: "live" };
    this.keys.set(key, item);
    if (this.isOwn(key) && isMessageKey(key)) this.newest = item;
  }

  /**
   * @param {string} key
   * @param {Key["state"]} state
   * @param {number} at
   */
  #end(key, state, at) {
    const item = this.keys.get(key);
    if (!item) return;
    Object.assign(item, { state, endedAt: item.endedAt ?? at });
    if (state === "gone" && this.isOwn(key))
      this.#log({ text: "Cache cleaned", key, leftMs: null });
  }

  /**
   * Correct the keys by what Redis has: of each key the milliseconds that are left.
   *
   * @param {Keys} item
   */
  #applyKeys({ at, keys, isWhole, ttlMs, since }) {
    this.isRedisUp = keys !== null;
    this.ttlMs = ttlMs;
    if (!keys) return;
    for (const [key, left] of Object.entries(keys)) {
      const known = this.keys.get(key);
      if (known?.state !== "live")
        this.#addKey(key, at + left - Math.max(left, ttlMs), at + left, Math.max(left, ttlMs));
      else if (Math.abs(known.deadline - at - left) > TOLERANCE_MS) known.deadline = at + left;
    }
    for (const item of isWhole ? this.keys.values() : [])
      if (item.state === "live" && !(item.key in keys) && item.bornAt < since - 500)
        this.#end(item.key, item.deadline > at + TOLERANCE_MS ? "lost" : "expired", at);
  }

  /** @param {Sweep} item */
  #applySweep(item) {
    for (const { key, deadline } of this.liveKeys(item.at).filter(({ key }) => this.isOwn(key)))
      if (isMessageKey(key)) this.#log({ text: "Cache hit", key, leftMs: deadline - item.at });
    this.sweeps.push(item);
    if (this.sweeps.length > MAX_SWEEPS) this.sweeps.shift();
    for (const { key, state, deadline } of this.keys.values()) {
      const isOver =
        deadline + KEPT_MS < item.at && (state !== "live" || deadline + 2 * KEPT_MS < item.at);
      if (isOver && key !== this.newest?.key) this.keys.delete(key);
    }
  }

  /** @param {LogLine} line */
  #log(line) {
    this.log = [...this.log, line].slice(-MAX_LINES);
  }

  /**
   * @param {string} key
   * @param {number} at
   */
  isLive(key, at) {
    const item = this.keys.get(key);
    return item?.state === "live" && item.deadline > at;
  }

  /** @param {number} at */
  liveKeys(at) {
    return [...this.keys.values()].filter(({ key }) => this.isLive(key, at));
  }

  /**
   * Whether nothing that belongs to our users is left to happen.
   *
   * @param {number} at
   */
  isQuiet(at) {
    const { newest } = this;
    const isOver =
      !newest || ["gone", "lost"].includes(newest.state) || newest.deadline + KEPT_MS < at;
    return isOver && !this.liveKeys(at).some(({ key }) => this.isOwn(key));
  }
}

/** @param {Story} story */
export const outcomeOf = (story) =>
  /** @type {Outcome | undefined} */ (story.steps.findLast(({ cache }) => cache)?.cache);
