/* What the flow has told: numbers, the way of each message, and the life of each key. No DOM, so thousands of events a second cost little;
   the page looks once a frame. Times are milliseconds since 1970 on the service's clock. */

const TOLD = 1_500; // ms that a key stays on the board after its end was first drawn, however late that was
const FEW = 500; // unfinished ways that are remembered
const FIRST = 2; // windows that are always shown
const OUTCOMES = ["hit", "partial", "miss", "bypass"];

export class Story {
  constructor() {
    this.counts = { events: 0, sends: 0, reads: 0, saves: 0, storeReads: 0, hit: 0, partial: 0, miss: 0, bypass: 0, cached: 0, cleaned: 0 };
    this.passed = { send: {}, read: {} }; // by stage
    this.latest = { send: null, read: null }; // the way that began last: {trace, door, kind, took: {stage: ms}, done, cache}
    this.sweep = null; // the worker's latest beat
    this.sweeps = 0;
    this.keys = new Map();
    this.changed = false;
    this.windowTouched = false; // a window's life is known only by asking
    this.behind = Infinity; // our clock minus the service's, at the quickest event
    this.#ways = new Map();
    this.#seconds = [];
  }

  #ways;
  #seconds; // moments of the latest sends

  /** The time on the service's clock. */
  now() {
    return Date.now() - (Number.isFinite(this.behind) ? this.behind : 0);
  }

  hear(event) {
    this.changed = true;
    this.counts.events += 1;
    this.behind = Math.min(this.behind, Date.now() - event.at);
    if (event.door === "cache") this.#life(event);
    else if (event.stage === "sweep") this.#beat(event);
    else this.#way(event);
  }

  #beat(event) {
    this.sweep = event;
    this.sweeps += 1;
  }

  // --- ways ------------------------------------------------------------------------------------------------------------

  #way(event) {
    const way = this.#ways.get(event.trace) ?? this.#newWay(event);
    way.took[event.stage] = event.tookMs;
    if (event.cache) way.cache = event.cache;
    if (way.kind === null) this.#learnKind(way, event.stage);
    else this.#count(way.kind, event.stage);
    if (event.stage === "save") this.counts.saves += 1;
    if (event.stage === "read_store") this.counts.storeReads += 1;
    if (event.stage === "cache_conversation") this.#window(event);
    if (event.stage === "respond") this.#finish(way);
  }

  #newWay({ trace, door }) {
    const way = { trace, door, kind: null, took: {}, done: false, cache: null };
    this.#ways.set(trace, way);
    if (this.#ways.size > FEW) this.#ways.delete(this.#ways.keys().next().value);
    return way;
  }

  /** A way is a send once it has created a message, a read once it has asked for some; other ways (edits) have no picture here. */
  #learnKind(way, stage) {
    if (stage === "create") way.kind = "send";
    else if (stage === "read_cache" || stage === "read_store") way.kind = "read";
    if (way.kind === null) return;
    this.#count(way.kind, "request");
    this.#count(way.kind, stage);
    this.latest[way.kind] = way;
  }

  #count(kind, stage) {
    this.passed[kind][stage] = (this.passed[kind][stage] ?? 0) + 1;
  }

  #finish(way) {
    way.done = true;
    this.#ways.delete(way.trace);
    if (way.kind === "send") {
      this.counts.sends += 1;
      this.#seconds.push(performance.now());
    }
    if (way.kind === "read") this.counts.reads += 1;
    if (OUTCOMES.includes(way.cache)) this.counts[way.cache] += 1;
  }

  /** Messages answered in the second that ends now. */
  rate() {
    const since = performance.now() - 1000;
    const first = this.#seconds.findIndex((moment) => moment > since);
    this.#seconds.splice(0, first < 0 ? this.#seconds.length : first);
    return this.#seconds.length;
  }

  // --- lives -----------------------------------------------------------------------------------------------------------

  #life({ stage, key, at, ttlMs, deadline }) {
    if (stage === "cached") {
      this.counts.cached += 1;
      this.#live(key, at, at + ttlMs, ttlMs);
    } else if (stage === "cleaned") {
      this.counts.cleaned += 1;
      this.#end(key, "gone", at);
    } else if (stage === "expired") this.#end(key, "expired", deadline);
  }

  #window({ key }) {
    const item = this.keys.get(key);
    if (!item || item.state !== "live" || item.deadlineMs < this.now()) this.windowTouched = true;
  }

  #live(key, cachedMs, deadlineMs, ttlMs) {
    this.keys.delete(key); // the newest stands last
    this.keys.set(key, { key, ttlMs, cachedMs, deadlineMs, state: "live" });
  }

  #end(key, state, at) {
    const item = this.keys.get(key);
    if (!item) return;
    this.keys.set(key, { ...item, state, endedMs: item.endedMs ?? at, toldMs: at, drawnMs: undefined });
  }

  /** What Redis itself answered: `{at, keys: {key: ms left}, settings}`. It knows the lives of windows, and keys from before we came. */
  compare({ at, keys, live, settings }, askedAt) {
    this.changed = true;
    const ttlMs = settings.cacheTtl * 1000;
    for (const [key, left] of Object.entries(keys)) {
      const item = this.keys.get(key);
      const off = item?.state === "live" ? Math.abs(item.deadlineMs - at - left) : Infinity;
      if (off > 200) this.#live(key, at, at + left, Math.max(left, ttlMs));
    }
    if (live > Object.keys(keys).length) return; // there are more than it named
    for (const item of this.keys.values()) {
      const ended = item.state === "live" && !(item.key in keys) && item.cachedMs < askedAt - 500;
      if (ended) this.#end(item.key, item.deadlineMs > at + 200 ? "lost" : "expired", Math.min(at, item.deadlineMs));
    }
  }

  /** The keys for the board: windows, then messages, the newest first. Stories that have been told leave. */
  items() {
    const now = this.now();
    const windows = [];
    const messages = [];
    for (const item of this.keys.values()) {
      const over = item.state === "live" ? item.deadlineMs + 4 * TOLD : (item.drawnMs ??= now) + (item.state === "gone" ? TOLD : 2 * TOLD);
      if (over < now) this.keys.delete(item.key);
      else (isWindow(item.key) ? windows : messages).push(item);
    }
    return [...windows.reverse().map((item, place) => ({ ...item, always: place < FIRST })), ...messages.reverse()];
  }

  get living() {
    const now = this.now();
    let living = 0;
    for (const item of this.keys.values()) if (item.state === "live" && item.deadlineMs > now) living += 1;
    return living;
  }
}

export const isWindow = (key) => /(^|:)messages:[^:]+:[^:]+$/.test(key);
