/* The lifecycle of a key on an axis of time: cached, expired, deleted. The newest key travels along
   it, and each round of the worker leaves a mark below. */

/** @import { Key, Picture } from "./picture.js" */
/** @import { Presentation } from "./presentation.js" */
/** @import { People } from "./send_scene.js" */

import { part } from "../lab/parts.js";
import { isMessageKey } from "./picture.js";
import { hide, newScene, panel, set, text, write } from "./shapes.js";
import { levelOf, newDatabase } from "./stores.js";
import { newToken, reducedMotion } from "./token.js";
import { seconds } from "./words.js";

const LANDSCAPE = {
  size: [1200, 680],
  top: 190,
  left: 16,
  right: 1184,
  name: 70,
  time: 140,
  stores: 520,
};
const PORTRAIT = {
  size: [840, 1112],
  top: 371,
  left: 8,
  right: 830,
  name: 86,
  time: 235,
  stores: 840,
};
const SHARE = 5 / 7; // of the axis: until the key expires
const AFTER_MS = 1_000; // the interval of the worker
const BAND = 150; // height
const MAX_DOTS = 60;
const MAX_MARKS = 12;

/**
 * @param {People} people
 * @param {boolean} isPortrait
 */
export function lifeScene(people, isPortrait) {
  const place = isPortrait ? PORTRAIT : LANDSCAPE;
  const [width, height] = place.size;
  const svg = newScene("How long a key stays in Redis", width, height);
  const length = place.right - place.left;
  const x = (/** @type {number} */ share) => place.left + share * length;
  const after = (1 - SHARE) / 2; // a second after the expiry

  /**
   * @param {number} age
   * @param {number} ttlMs
   */
  const xOf = (age, ttlMs) =>
    x(
      age < ttlMs
        ? (SHARE * Math.max(0, age)) / ttlMs
        : Math.min(1, SHARE + (after * (age - ttlMs)) / AFTER_MS),
    );

  const name = text(svg, { x: place.left, y: place.name }, "s-mono s-key-name");
  const time = isPortrait
    ? text(svg, { x: place.left, y: place.time }, "s-big")
    : text(svg, { x: place.right, y: place.name + 26 }, "s-big s-right");
  const bands = [
    ["CACHED", 0, 0.4 * SHARE, "s-live"],
    ["CACHED", 0.4 * SHARE, SHARE, "s-live"],
    ["EXPIRED", SHARE, SHARE + after, "s-dead"],
    ["DELETED", SHARE + after, 1, "s-deleted"],
  ].map(([title, from, to, kind]) => band(String(title), Number(from), Number(to), String(kind)));
  const left = panel(svg, { x: place.left, y: place.top, w: 0, h: BAND }, "s-left", 0);
  const words = bands.map(({ title, from, to, kind }) =>
    text(
      svg,
      { x: x((from + to) / 2), y: place.top + (kind === "s-deleted" ? 84 : 44) },
      `s-state s-centred ${kind}`,
      isPortrait && kind === "s-live" && !from ? "" : title,
    ),
  );
  const ticks = [0, 0.4, 1, 1].map((_, number) =>
    text(svg, { x: 0, y: place.top + BAND + 46 }, `s-tick${number ? " s-centred" : ""}`),
  );
  const marks = Array.from({ length: MAX_MARKS }, () =>
    part(svg, "path", { d: "M0 0l16 26h-32z", class: "s-mark", visibility: "hidden" }),
  );
  const legend = text(svg, { x: place.left, y: place.top + BAND + 140 }, "s-note s-legend");
  const dots = Array.from({ length: MAX_DOTS }, () =>
    part(svg, "circle", { r: 8, cy: place.top + BAND - 30, class: "s-dot", visibility: "hidden" }),
  );
  const half = (length - 30) / 2;
  const redis = store({ x: place.left, y: place.stores, w: half, h: 124 });
  const mongo = newDatabase(svg, { x: place.left + half + 30, y: place.stores, w: half, h: 124 });
  const token = newToken(svg);

  /**
   * @param {string} title
   * @param {number} from
   * @param {number} to
   * @param {string} kind
   */
  function band(title, from, to, kind) {
    panel(svg, { x: x(from), y: place.top, w: (to - from) * length, h: BAND }, `s-band ${kind}`, 0);
    return { title, from, to, kind };
  }

  /** @param {import("./shapes.js").Rect} rect */
  function store(rect) {
    const group = part(svg, "g", { class: "s-store s-redis" });
    panel(group, rect, "s-panel");
    text(group, { x: rect.x + rect.w / 2, y: rect.y + 52 }, "s-title s-centred", "Redis");
    const note = text(group, { x: rect.x + rect.w / 2, y: rect.y + 98 }, "s-note s-centred");
    return { group, note };
  }

  /** @param {Presentation} presentation */
  function draw(presentation) {
    const { picture, at, isRedisUp } = presentation;
    const key = picture.newest;
    const now = at ?? 0;
    const ttlMs = key?.ttlMs ?? picture.ttlMs ?? 5_000;
    const [, two, end, deleted] = ticks;
    [0, 0.4 * ttlMs, ttlMs, ttlMs + AFTER_MS].forEach((age, number) => {
      write(ticks[number], seconds(age));
    });
    set(ticks[0], "x", place.left);
    for (const [tick, share] of /** @type {[Element, number][]} */ ([
      [two, 0.4 * SHARE],
      [end, SHARE],
      [deleted, SHARE + after],
    ]))
      set(tick, "x", x(share));
    drawStores(presentation, key, now);
    drawMarks(picture, key, now);
    drawDots(isRedisUp ? picture.liveKeys(now) : [], key, now);
    if (!key || !isRedisUp) return drawNothing(presentation);
    const age = inSteps(now - key.bornAt);
    const leftMs = key.state === "live" ? Math.max(0, key.deadline - now) : 0;
    write(name, people.short(key.key));
    write(time, stateOf(key, leftMs));
    set(left, "x", xOf(age, ttlMs));
    set(left, "width", leftMs ? Math.max(0, x(SHARE) - xOf(age, ttlMs)) : 0);
    set(left, "data-left", levelOf(leftMs / ttlMs));
    words.forEach((word, number) => {
      const [from, to] = [bands[number].from, bands[number].to];
      const share = (xOf(age, ttlMs) - place.left) / length;
      const isHere = share >= from && (share < to || to === 1);
      set(word, "data-here", String(isHere));
    });
    set(token, "transform", `translate(${xOf(age, ttlMs).toFixed(1)} ${place.top + BAND - 34})`);
    set(token, "visibility", "visible");
    set(token, "class", leftMs ? "s-token" : "s-token s-ghost");
  }

  /** @param {Presentation} presentation */
  function drawNothing({ picture, isRedisUp }) {
    write(name, "");
    write(time, "");
    if (!isRedisUp) write(name, "No answer from Redis");
    else if (!picture.hasCached) write(name, "No key is cached yet");
    set(left, "width", 0);
    for (const word of words) set(word, "data-here", "false");
    hide(token);
  }

  /**
   * @param {Presentation} presentation
   * @param {Key | null} key
   * @param {number} now
   */
  function drawStores({ picture, isRedisUp }, key, now) {
    const isLive = key !== null && picture.isLive(key.key, now);
    const has = isLive ? "has the copy" : key ? "has no copy any more" : "";
    write(redis.note, isRedisUp ? has : "no answer");
    const state = isRedisUp ? (isLive ? " s-full" : "") : " s-away";
    set(redis.group, "class", `s-store s-redis${state}`);
    mongo.draw(picture, key !== null, key ? "has the message" : "");
  }

  /**
   * @param {Picture} picture
   * @param {Key | null} key
   * @param {number} now
   */
  function drawMarks({ sweeps }, key, now) {
    const seen = key
      ? sweeps
          .filter(({ at }) => at > key.bornAt && at <= now && at < key.deadline + 1_800)
          .slice(-MAX_MARKS)
      : [];
    marks.forEach((node, number) => {
      const sweep = seen[number];
      set(node, "visibility", sweep ? "visible" : "hidden");
      if (!sweep || !key) return;
      const isLive = sweep.at < key.deadline;
      set(node, "class", `s-mark ${isLive ? "s-live" : "s-dead"}`);
      set(
        node,
        "transform",
        `translate(${xOf(sweep.at - key.bornAt, key.ttlMs).toFixed(1)} ${place.top + BAND + 64})`,
      );
    });
    write(legend, seen.length ? "▲ the worker has looked" : "");
  }

  /**
   * The other live keys of messages, by their age.
   *
   * @param {Key[]} keys
   * @param {Key | null} newest
   * @param {number} now
   */
  function drawDots(keys, newest, now) {
    const others = keys.filter((key) => key !== newest && isMessageKey(key.key)).slice(-MAX_DOTS);
    dots.forEach((dot, number) => {
      const key = others[number];
      set(dot, "visibility", key ? "visible" : "hidden");
      if (key) set(dot, "cx", xOf(now - key.bornAt, key.ttlMs));
    });
  }

  return { svg, draw };
}

/** With reduced motion, the key moves once a second. */
const inSteps = (/** @type {number} */ age) =>
  reducedMotion.matches ? Math.floor(age / 1000) * 1000 : age;

/**
 * @param {Key} key
 * @param {number} leftMs
 */
export function stateOf({ state }, leftMs) {
  if (leftMs) return `${(leftMs / 1000).toFixed(1)} s left`;
  if (state === "lost") return "deleted early";
  return state === "gone" ? "cleaned" : "expired";
}
