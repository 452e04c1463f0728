/* What the stage events say: counters, the stages of each request, and the state of each cache key.
   This module does not touch the DOM, so thousands of events a second cost little; the page reads
   it once a frame. Times are milliseconds since 1970 on the service's clock. */

/** @import { Item } from "../lab/ttl_board.js" */

/**
 * A record that a request has passed a stage, that the sweeper has run, or that a key changed.
 *
 * @typedef {RequestEvent | SweepEvent | CachedEvent | ExpiredEvent | CleanedEvent} StageEvent
 *
 * @typedef {object} RequestEvent
 * @property {"http" | "socket"} door - the transport
 * @property {Stage} stage
 * @property {string} trace - the id of the request
 * @property {number} at
 * @property {number} tookMs
 * @property {Outcome} [cache] - of a read: its X-Cache
 * @property {string} [key] - the key that was read or written
 *
 * @typedef {"request" | "create" | "save" | "cache_message" | "cache_conversation" | "emit" | "respond" | "read_cache" | "read_store"} Stage
 * @typedef {"hit" | "partial" | "miss" | "bypass" | "stale"} Outcome
 *
 * @typedef {{door: "worker", stage: "sweep", at: number, live: number, cleaned: number}} SweepEvent
 * @typedef {{door: "cache", stage: "cached", key: string, at: number, ttlMs: number}} CachedEvent
 * @typedef {{door: "cache", stage: "expired", key: string, at: number, deadline: number}} ExpiredEvent
 * @typedef {{door: "cache", stage: "cleaned", key: string, at: number}} CleanedEvent
 */

/**
 * @typedef {object} Request - what is known of a request
 * @property {string} trace
 * @property {"http" | "socket"} door
 * @property {Kind | null} kind - null until it is known
 * @property {Partial<Record<Stage, number>>} took - milliseconds by stage
 * @property {boolean} done
 * @property {Outcome | null} cache
 *
 * @typedef {"send" | "read"} Kind
 */

/**
 * The settings of the service. `canTurn`: this browser may change them.
 *
 * @typedef {{cacheTtl: number, cacheMode: string, usualTtl: number, usualMode: string, canTurn: boolean}} Settings
 */

/** @typedef {Item & {drawnMs?: number}} Key - `drawnMs`: when its end was first drawn */

const SHOW_END_MS = 1_500; // a key stays on the board this long after its end was first drawn
const MAX_OPEN_REQUESTS = 500; // unfinished requests that are remembered
const PINNED_WINDOWS = 2; // conversation windows that always have a row
// Redis reports a TTL that differs by more: the key was written again
const DEADLINE_TOLERANCE_MS = 200;

export class FlowState {
  /** @type {Map<string, Request>} */
  #requests = new Map(); // the unfinished ones, by trace
  /** @type {number[]} */
  #sendTimes = []; // of the messages sent within the last second

  constructor() {
    this.counts = {
      events: 0,
      sends: 0,
      reads: 0,
      saves: 0,
      storeReads: 0,
      hit: 0,
      partial: 0,
      miss: 0,
      bypass: 0,
      stale: 0,
      cached: 0,
      cleaned: 0,
    };
    /** @type {Record<Kind, Partial<Record<Stage, number>>>} */
    this.passed = { send: {}, read: {} }; // number of requests by stage
    /** @type {Record<Kind, Request | null>} */
    this.latest = { send: null, read: null }; // the newest request
    /** @type {SweepEvent | null} */
    this.sweep = null; // the newest sweep
    this.sweeps = 0;
    /** @type {Map<string, Key>} */
    this.keys = new Map();
    this.changed = false;
    // a window may have a new expiry, which no event reports: Redis must be asked
    this.windowWritten = false;
    this.clockOffset = Infinity; // this browser's clock minus the service's, by the fastest event
  }

  /** The time on the service's clock. */
  now() {
    return Date.now() - (Number.isFinite(this.clockOffset) ? this.clockOffset : 0);
  }

  /** @param {StageEvent} event */
  add(event) {
    this.changed = true;
    this.counts.events += 1;
    this.clockOffset = Math.min(this.clockOffset, Date.now() - event.at);
    if (event.door === "cache") this.#addKeyEvent(event);
    else if (event.stage === "sweep") this.#addSweep(event);
    else this.#addStage(event);
  }

  /** @param {SweepEvent} event */
  #addSweep(event) {
    this.sweep = event;
    this.sweeps += 1;
  }

  // --- requests ----------------------------------------------------------------------------------

  /** @param {RequestEvent} event */
  #addStage(event) {
    const request = this.#requests.get(event.trace) ?? this.#newRequest(event);
    request.took[event.stage] = event.tookMs;
    if (event.cache) request.cache = event.cache;
    if (request.kind === null) this.#setKind(request, event.stage);
    else this.#count(request.kind, event.stage);
    if (event.stage === "save") this.counts.saves += 1;
    if (event.stage === "read_store") this.counts.storeReads += 1;
    if (event.stage === "cache_conversation") this.#checkWindow(event.key ?? "");
    if (event.stage === "respond") this.#finish(request);
  }

  /** @param {RequestEvent} event */
  #newRequest({ trace, door }) {
    /** @type {Request} */
    const request = { trace, door, kind: null, took: {}, done: false, cache: null };
    this.#requests.set(trace, request);
    if (this.#requests.size > MAX_OPEN_REQUESTS)
      this.#requests.delete(this.#requests.keys().next().value ?? "");
    return request;
  }

  /**
   * A request is a send if it creates a message, and a read if it asks for messages. Others, such
   * as edits, are not drawn.
   *
   * @param {Request} request
   * @param {Stage} stage
   */
  #setKind(request, stage) {
    if (stage === "create") request.kind = "send";
    else if (stage === "read_cache" || stage === "read_store") request.kind = "read";
    if (request.kind === null) return;
    this.#count(request.kind, "request");
    this.#count(request.kind, stage);
    this.latest[request.kind] = request;
  }

  /**
   * @param {Kind} kind
   * @param {Stage} stage
   */
  #count(kind, stage) {
    this.passed[kind][stage] = (this.passed[kind][stage] ?? 0) + 1;
  }

  /** @param {Request} request */
  #finish(request) {
    request.done = true;
    this.#requests.delete(request.trace);
    if (request.kind === "send") {
      this.counts.sends += 1;
      this.#sendTimes.push(performance.now());
    }
    if (request.kind === "read") this.counts.reads += 1;
    if (request.cache) this.counts[request.cache] += 1;
  }

  /** The number of messages sent within the last second. */
  rate() {
    const since = performance.now() - 1000;
    const first = this.#sendTimes.findIndex((time) => time > since);
    this.#sendTimes.splice(0, first < 0 ? this.#sendTimes.length : first);
    return this.#sendTimes.length;
  }

  // --- keys --------------------------------------------------------------------------------------

  /** @param {CachedEvent | ExpiredEvent | CleanedEvent} event */
  #addKeyEvent(event) {
    const { key, at } = event;
    if (event.stage === "cached") {
      this.counts.cached += 1;
      this.#setLive(key, at, at + event.ttlMs, event.ttlMs);
    } else if (event.stage === "cleaned") {
      this.counts.cleaned += 1;
      this.#setEnded(key, "gone", at);
    } else this.#setEnded(key, "expired", event.deadline);
  }

  /** @param {string} key */
  #checkWindow(key) {
    const item = this.keys.get(key);
    if (item?.state !== "live" || item.deadlineMs < this.now()) this.windowWritten = true;
  }

  /**
   * @param {string} key
   * @param {number} cachedMs
   * @param {number} deadlineMs
   * @param {number} ttlMs
   */
  #setLive(key, cachedMs, deadlineMs, ttlMs) {
    this.keys.delete(key); // so that the newest key is the last one
    this.keys.set(key, { key, ttlMs, cachedMs, deadlineMs, state: "live" });
  }

  /**
   * @param {string} key
   * @param {Key["state"]} state
   * @param {number} at
   */
  #setEnded(key, state, at) {
    const item = this.keys.get(key);
    if (!item) return;
    this.keys.set(key, {
      ...item,
      state,
      endedMs: item.endedMs ?? at,
      reportedMs: at,
      drawnMs: undefined,
    });
  }

  /**
   * Correct the state by what Redis has: of each key the milliseconds that are left. Only this
   * shows when windows expire, and which keys were cached before the page was opened.
   *
   * @param {{at: number, keys: Record<string, number>, live: number, settings: Settings}} found
   * @param {number} requestedAt
   */
  compare({ at, keys, live, settings }, requestedAt) {
    this.changed = true;
    const ttlMs = settings.cacheTtl * 1000;
    for (const [key, left] of Object.entries(keys)) {
      const item = this.keys.get(key);
      const difference = item?.state === "live" ? Math.abs(item.deadlineMs - at - left) : Infinity;
      if (difference > DEADLINE_TOLERANCE_MS)
        this.#setLive(key, at, at + left, Math.max(left, ttlMs));
    }
    if (live > Object.keys(keys).length) return; // the answer does not list all keys
    for (const item of this.keys.values()) {
      const hasEnded =
        item.state === "live" && !(item.key in keys) && item.cachedMs < requestedAt - 500;
      if (hasEnded)
        this.#setEnded(
          item.key,
          item.deadlineMs > at + DEADLINE_TOLERANCE_MS ? "lost" : "expired",
          Math.min(at, item.deadlineMs),
        );
    }
  }

  /**
   * The keys for the board: windows, then messages, the newest first. Ended keys are removed after
   * a while.
   */
  items() {
    const now = this.now();
    /** @type {Key[]} */
    const windows = [];
    /** @type {Key[]} */
    const messages = [];
    for (const item of this.keys.values()) {
      if (this.#removeAt(item, now) < now) this.keys.delete(item.key);
      else (isWindow(item.key) ? windows : messages).push(item);
    }
    return [
      ...windows.reverse().map((item, index) => ({ ...item, always: index < PINNED_WINDOWS })),
      ...messages.reverse(),
    ];
  }

  /**
   * @param {Key} item
   * @param {number} now
   */
  #removeAt(item, now) {
    if (item.state === "live") return item.deadlineMs + 4 * SHOW_END_MS;
    item.drawnMs ??= now;
    return item.drawnMs + (item.state === "gone" ? SHOW_END_MS : 2 * SHOW_END_MS);
  }

  /** The number of keys that have not reached their deadline. */
  get liveCount() {
    const now = this.now();
    let count = 0;
    for (const item of this.keys.values())
      if (item.state === "live" && item.deadlineMs > now) count += 1;
    return count;
  }
}

export const isWindow = (/** @type {string} */ key) => /(^|:)messages:[^:]+:[^:]+$/.test(key);
