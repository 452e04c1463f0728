/* What the stage events say: counters, the stages of each request, and the state of each cache key.
   This module does not touch the DOM, so thousands of events a second cost little; the page reads it once a frame.
   Times are milliseconds since 1970 on the service's clock. */

const SHOW_END_MS = 1_500; // a key stays on the board this long after its end was first drawn
const MAX_OPEN_REQUESTS = 500; // unfinished requests that are remembered
const PINNED_WINDOWS = 2; // conversation windows that always have a row
const DEADLINE_TOLERANCE_MS = 200; // Redis reports a TTL that differs by more: the key was written again
const OUTCOMES = ["hit", "partial", "miss", "bypass"];

export class FlowState {
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
      cached: 0,
      cleaned: 0,
    };
    this.passed = { send: {}, read: {} }; // number of requests by stage
    this.latest = { send: null, read: null }; // the newest request: {trace, door, kind, took: {stage: ms}, done, cache}
    this.sweep = null; // the newest sweep
    this.sweeps = 0;
    this.keys = new Map();
    this.changed = false;
    this.windowWritten = false; // a window may have a new expiry, which no event reports: Redis must be asked
    this.clockOffset = Infinity; // this browser's clock minus the service's, by the fastest event
    this.#requests = new Map();
    this.#sendTimes = [];
  }

  #requests; // trace -> unfinished request
  #sendTimes; // of the messages sent within the last second

  /** The time on the service's clock. */
  now() {
    return Date.now() - (Number.isFinite(this.clockOffset) ? this.clockOffset : 0);
  }

  add(event) {
    this.changed = true;
    this.counts.events += 1;
    this.clockOffset = Math.min(this.clockOffset, Date.now() - event.at);
    if (event.door === "cache") this.#addKeyEvent(event);
    else if (event.stage === "sweep") this.#addSweep(event);
    else this.#addStage(event);
  }

  #addSweep(event) {
    this.sweep = event;
    this.sweeps += 1;
  }

  // --- requests --------------------------------------------------------------------------------------------------------

  #addStage(event) {
    const request = this.#requests.get(event.trace) ?? this.#newRequest(event);
    request.took[event.stage] = event.tookMs;
    if (event.cache) request.cache = event.cache;
    if (request.kind === null) this.#setKind(request, event.stage);
    else this.#count(request.kind, event.stage);
    if (event.stage === "save") this.counts.saves += 1;
    if (event.stage === "read_store") this.counts.storeReads += 1;
    if (event.stage === "cache_conversation") this.#checkWindow(event);
    if (event.stage === "respond") this.#finish(request);
  }

  #newRequest({ trace, door }) {
    const request = { trace, door, kind: null, took: {}, done: false, cache: null };
    this.#requests.set(trace, request);
    if (this.#requests.size > MAX_OPEN_REQUESTS)
      this.#requests.delete(this.#requests.keys().next().value);
    return request;
  }

  /** A request is a send if it creates a message, and a read if it asks for messages. Others, such as edits, are not drawn. */
  #setKind(request, stage) {
    if (stage === "create") request.kind = "send";
    else if (stage === "read_cache" || stage === "read_store") request.kind = "read";
    if (request.kind === null) return;
    this.#count(request.kind, "request");
    this.#count(request.kind, stage);
    this.latest[request.kind] = request;
  }

  #count(kind, stage) {
    this.passed[kind][stage] = (this.passed[kind][stage] ?? 0) + 1;
  }

  #finish(request) {
    request.done = true;
    this.#requests.delete(request.trace);
    if (request.kind === "send") {
      this.counts.sends += 1;
      this.#sendTimes.push(performance.now());
    }
    if (request.kind === "read") this.counts.reads += 1;
    if (OUTCOMES.includes(request.cache)) this.counts[request.cache] += 1;
  }

  /** The number of messages sent within the last second. */
  rate() {
    const since = performance.now() - 1000;
    const first = this.#sendTimes.findIndex((time) => time > since);
    this.#sendTimes.splice(0, first < 0 ? this.#sendTimes.length : first);
    return this.#sendTimes.length;
  }

  // --- keys ------------------------------------------------------------------------------------------------------------

  #addKeyEvent({ stage, key, at, ttlMs, deadline }) {
    if (stage === "cached") {
      this.counts.cached += 1;
      this.#setLive(key, at, at + ttlMs, ttlMs);
    } else if (stage === "cleaned") {
      this.counts.cleaned += 1;
      this.#setEnded(key, "gone", at);
    } else if (stage === "expired") this.#setEnded(key, "expired", deadline);
  }

  #checkWindow({ key }) {
    const item = this.keys.get(key);
    if (item?.state !== "live" || item.deadlineMs < this.now()) this.windowWritten = true;
  }

  #setLive(key, cachedMs, deadlineMs, ttlMs) {
    this.keys.delete(key); // so that the newest key is the last one
    this.keys.set(key, { key, ttlMs, cachedMs, deadlineMs, state: "live" });
  }

  #setEnded(key, state, at) {
    const item = this.keys.get(key);
    if (!item) return;
    this.keys.set(key, {
      ...item,
      state,
      endedMs: item.endedMs ?? at,
      toldMs: at,
      drawnMs: undefined,
    });
  }

  /** Correct the state by what Redis has: `{at, keys: {key: ms left}, live, settings}`, requested at `requestedAt`.
      Only this shows when windows expire, and which keys were cached before the page was opened. */
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

  /** The keys for the board: windows, then messages, the newest first. Ended keys are removed after a while. */
  items() {
    const now = this.now();
    const windows = [];
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

export const isWindow = (key) => /(^|:)messages:[^:]+:[^:]+$/.test(key);
