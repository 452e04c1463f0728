/* The tape: what really happened, in the order of the service's clock. The presentation plays it.
   Nothing here touches the DOM, so a burst of thousands of events costs little. */

/**
 * A stage event of the service, as `/flow` sends it.
 *
 * @typedef {object} StageEvent
 * @property {string} trace
 * @property {string} door - the transport, or "cache", or "worker"
 * @property {string} stage
 * @property {number} at - milliseconds since 1970, as all times here
 * @property {number} tookMs
 * @property {string} [user]
 * @property {string} [key]
 * @property {number} [ttlMs]
 * @property {string} [messageId]
 * @property {Outcome} [cache]
 * @property {number} [deadline]
 * @property {number} [live]
 * @property {number} [cleaned]
 *
 * @typedef {"hit" | "partial" | "miss" | "bypass" | "stale"} Outcome
 */

/**
 * A request, as a whole.
 *
 * @typedef {object} Story
 * @property {"story"} kind
 * @property {number} at
 * @property {string} trace
 * @property {string} door
 * @property {"send" | "read" | "change"} type
 * @property {string} user
 * @property {StageEvent[]} steps
 * @property {boolean} failed - it has not been answered
 *
 * @typedef {{kind: "cached", at: number, key: string, ttlMs: number}} Cached
 * @typedef {{kind: "expired", at: number, key: string, deadline: number}} Expired
 * @typedef {{kind: "cleaned", at: number, key: string}} Cleaned
 * @typedef {{kind: "sweep", at: number, live: number, cleaned: number}} Sweep
 * @typedef {{kind: "arrival", at: number, screen: string, message: Message}} Arrival
 * @typedef {{kind: "keys", at: number, keys: Record<string, number> | null, isWhole: boolean, ttlMs: number, since: number}} Keys
 * @typedef {{kind: "value", at: number, key: string, value: Value}} KeyValue
 * @typedef {Story | Cached | Expired | Cleaned | Sweep | Arrival | Keys | KeyValue} Item
 *
 * @typedef {{type: string, value: string[]}} Value - of a key: a line for each element of a list
 *
 * @typedef {{_id: string, seq: number, version: number, senderId: string, text: string, reactions: Record<string, string[]>, deletedAt: string | null}} Message
 */

/** @type {Record<string, Story["type"]>} the stage after `request` */
const TYPES = { create: "send", save: "change", read_cache: "read", read_store: "read" };
const STALE_MS = 3_000; // a request without an answer for so long has failed
const GIVEN_UP_MS = 15_000; // the page itself has given up such a request by then
const MAX_ITEMS = 30_000;

export class Tape {
  /** @type {Item[]} */
  items = [];
  /** @type {Map<string, Story & {since: number}>} */
  #open = new Map(); // requests without an answer so far, by trace
  /** @type {Map<string, number>} */
  #failedAt = new Map(); // by user: when a request was taken in without an answer
  #latestRequest = -Infinity; // when it began
  ownKeys = new Set(); // the keys that our users have caused
  floor = -Infinity; // what is presented already; nothing is inserted before it
  removed = 0; // items that were removed from the front
  clockOffset = Infinity; // this browser's clock minus the service's, by the fastest event
  isRedisUp = true; // now, also if the picture is behind: the page has an answer from Redis

  /**
   * @param {(user: string) => boolean} isOurs
   * @param {() => number} localTime - milliseconds since 1970 on this browser's clock
   */
  constructor(isOurs, localTime = Date.now) {
    this.isOurs = isOurs;
    this.localTime = localTime;
  }

  /** Whether the service's clock is known. */
  get isSynchronized() {
    return Number.isFinite(this.clockOffset);
  }

  /** When the oldest request of our users began that has no answer yet, or Infinity. */
  get openSince() {
    return Math.min(...[...this.#open.values()].map(({ at }) => at));
  }

  /** The time on the service's clock. */
  now() {
    return this.localTime() - (this.isSynchronized ? this.clockOffset : 0);
  }

  /**
   * Add an event. Return the request that it ends, if it is one of our users.
   *
   * @param {StageEvent} event
   * @returns {Story | undefined}
   */
  add(event) {
    this.clockOffset = Math.min(this.clockOffset, this.localTime() - event.at);
    if (event.door !== "cache" && event.door !== "worker") return this.#addStage(event);
    this.put(/** @type {any} */ ({ ...event, kind: event.stage }));
  }

  /** @param {StageEvent} event */
  #addStage(event) {
    if (event.stage === "request" && this.isOurs(event.user ?? "")) this.#begin(event);
    const story = this.#open.get(event.trace);
    if (!story) return undefined;
    story.type ??= TYPES[event.stage];
    story.steps.push(event);
    if (event.key) this.ownKeys.add(event.key);
    if (event.stage !== "respond") return undefined;
    this.#finish(story, false);
    return story;
  }

  /** @param {StageEvent} event */
  #begin({ trace, door, user = "", at }) {
    this.#latestRequest = at;
    const story = { kind: "story", at, trace, door, type: undefined, user, steps: [] };
    this.#open.set(
      trace,
      /** @type {any} */ ({ ...story, failed: false, since: this.localTime() }),
    );
  }

  /** Add the requests that were not answered. */
  closeStale() {
    for (const story of this.#open.values())
      if (this.localTime() - story.since > STALE_MS) {
        this.#failedAt.set(story.user, this.localTime());
        this.#finish(story, true);
      }
  }

  /**
   * The story of a request of this page that has failed, or null if it is on the tape already. The
   * service may have reported some of its stages, or none.
   *
   * @param {Pick<Story, "type" | "door" | "user">} request
   * @returns {Story | null}
   */
  failed(request) {
    if (this.localTime() - (this.#failedAt.get(request.user) ?? -Infinity) < GIVEN_UP_MS)
      return null;
    const open = [...this.#open.values()].findLast(({ user }) => user === request.user);
    if (open) this.#open.delete(open.trace);
    const [at, trace] = [open?.at ?? this.now(), open?.trace ?? `failed ${this.now()}`];
    const first = {
      trace,
      door: request.door,
      stage: "request",
      at,
      tookMs: 0,
      user: request.user,
    };
    return { ...request, kind: "story", at, trace, steps: open?.steps ?? [first], failed: true };
  }

  /**
   * @param {Story & {since?: number}} story
   * @param {boolean} failed
   */
  #finish(story, failed) {
    this.#open.delete(story.trace);
    if (!story.type) return; // not a message: a mark that something was read
    const { since: _, ...whole } = story;
    this.put({ ...whole, failed });
  }

  /**
   * Insert an item in the order of time. A request comes before what it causes in the same moment.
   * What a user receives has the time of this browser, which is not exact.
   *
   * @param {Item} item
   */
  put(item) {
    const earliest = item.kind === "arrival" ? this.#latestRequest : -Infinity;
    const placed = { ...item, at: Math.max(item.at, this.floor, earliest) };
    const isCause = item.kind === "story" && placed.at > this.floor;
    const isLater = (/** @type {Item} */ { at }) => at > placed.at || (isCause && at === placed.at);
    let place = this.items.length;
    while (place > 0 && isLater(this.items[place - 1])) place -= 1;
    this.items.splice(place, 0, placed);
    if (this.items.length > MAX_ITEMS + 1000) {
      this.items.splice(0, 1000);
      this.removed += 1000;
    }
  }

  /**
   * What a user received because of this request is shown when the token gets there: move it to
   * the time of the stage `emit`. It is on the tape only if it has really arrived.
   *
   * @param {Story} story
   */
  alignArrivals(story) {
    const emit = story.steps.find(({ stage }) => stage === "emit");
    if (!emit) return;
    const isOfStory = (/** @type {Item} */ item) =>
      item.kind === "arrival" && item.message._id === emit.messageId;
    const arrivals = this.items.slice(this.items.indexOf(story)).filter(isOfStory);
    this.items = this.items.filter((item) => !arrivals.includes(item));
    for (const item of arrivals) this.put({ ...item, at: emit.at });
  }
}
