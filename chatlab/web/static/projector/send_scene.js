/* The send flow, and that of a change: seven boxes, the two stores and two screens. */

/** @import { Presentation } from "./presentation.js" */
/** @import { Point, Rect } from "./shapes.js" */

import { STAGES } from "./legs.js";
import { newPhone } from "./phone.js";
import {
  arrow,
  defineTip,
  edge,
  hide,
  link,
  mark,
  middle,
  newBox,
  newScene,
  set,
  spot,
  write,
} from "./shapes.js";
import { newDatabase, newRedis } from "./stores.js";
import { newToken, travel } from "./token.js";

/** @typedef {{left: string, right: string, name: (user: string) => string, short: (key: string) => string}} People */

const LANDSCAPE = {
  size: [1200, 680],
  box: (/** @type {number} */ number) => ({ x: 270, y: 4 + number * 99, w: 530, h: 78 }),
  left: { x: 4, y: 4, w: 238, h: 392 },
  right: { x: 850, y: 512, w: 346, h: 164 },
  mongo: { x: 850, y: 172, w: 346, h: 124 },
  redis: { x: 850, y: 306, w: 346, h: 196 },
};
const PORTRAIT = {
  size: [840, 1112],
  box: (/** @type {number} */ number) => ({ x: 4, y: 212 + number * 128, w: 494, h: 101 }),
  left: { x: 4, y: 4, w: 321, h: 203 },
  right: { x: 548, y: 847, w: 287, h: 259 },
  mongo: { x: 548, y: 440, w: 287, h: 153 },
  redis: { x: 548, y: 600, w: 287, h: 240 },
};
const TITLES = {
  send: [
    "Request",
    "Create the message",
    "Save to MongoDB",
    "Cache in Redis",
    "Cache the conversation",
    "Emit “newMessage”",
    "Respond to the client",
  ],
  change: [
    "Request",
    "Find the message",
    "Save to MongoDB",
    "Cache in Redis",
    "Cache the conversation",
    "Emit “messageUpdated”",
    "Respond to the client",
  ],
};
const TRANSPORTS = {
  send: { http: "HTTP POST", socket: "WebSocket" },
  change: { http: "HTTP", socket: "WebSocket" },
};

/**
 * @param {People} people
 * @param {boolean} isPortrait
 */
export function sendScene(people, isPortrait) {
  const place = isPortrait ? PORTRAIT : LANDSCAPE;
  const svg = newScene("How a message is sent", place.size[0], place.size[1]);
  defineTip(svg);
  const rects = TITLES.send.map((_, number) => place.box(number));
  link(svg, edge(rects[2]), { x: place.mongo.x, y: middle(rects[2]).y });
  link(svg, edge(rects[3]), { x: place.redis.x, y: middle(rects[3]).y });
  link(svg, edge(rects[4]), { x: place.redis.x, y: middle(rects[4]).y });
  link(svg, edge(rects[5]), { x: place.right.x, y: middle(rects[5]).y });
  for (const [index, rect] of rects.slice(1).entries()) arrow(svg, rects[index], rect);
  const [http, socket] = halves(rects[0]).map((rect) => newBox(svg, rect, "", null));
  const boxes = rects
    .slice(1)
    .map((rect, index) => newBox(svg, rect, TITLES.send[index + 1], index + 2));
  const mongo = newDatabase(svg, place.mongo);
  const redis = newRedis(svg, place.redis, 2);
  const phones = [
    { user: people.left, phone: newPhone(svg, place.left, people.name(people.left)) },
    { user: people.right, phone: newPhone(svg, place.right, people.name(people.right)) },
  ];
  const token = newToken(svg);

  /** @param {Presentation} presentation */
  function draw({ picture, trip, at, isRedisUp }) {
    const { send, change } = picture.acts;
    const act = !send || (change && change.story.at > send.story.at) ? change : send;
    const type = act?.story.type === "change" ? "change" : "send";
    write(http.label, TRANSPORTS[type].http);
    write(socket.label, TRANSPORTS[type].socket);
    for (const [index, title] of TITLES[type].slice(1).entries()) write(boxes[index].label, title);
    const own = trip?.story && trip.view === "send" ? trip : null;
    const current = own ? own.legs[own.index].stage : "";
    STAGES[type].forEach((stage, number) => {
      const box = number ? boxes[number - 1] : act?.story.door === "socket" ? socket : http;
      const took = act?.took[stage];
      const isPassed = took !== undefined || (stage === "find" && act?.took.save !== undefined);
      const isSkipped = act?.done && !isPassed;
      mark(box, stage === current ? "now" : isPassed ? "done" : isSkipped ? "skipped" : "");
      set(box.group, "data-stage", stage);
      write(box.tip, took === undefined ? "" : `${took.toFixed(2)} ms`);
      if (!number) mark(box === http ? socket : http, "");
    });
    mongo.draw(picture, act?.took.save !== undefined);
    redis.draw(shownKeys(picture, people), at ?? 0, people.short, isRedisUp);
    for (const { user, phone } of phones) phone.draw(picture.screens[user] ?? []);
    if (own) moveToken(own);
    else hide(token);
  }

  /** @param {import("./presentation.js").Trip} trip */
  function moveToken({ story, legs, index, progress }) {
    const [there, back] = pathOf(
      /** @type {any} */ (story),
      legs[index].stage,
      legs[index].isSkipped,
    );
    if (progress < 0.5) travel(token, there, progress * 2);
    else travel(token, back, progress * 2 - 1);
  }

  /**
   * The way of the message in one leg: there and back.
   *
   * @param {import("./tape.js").Story} story
   * @param {string} stage
   * @param {boolean} isSkipped
   * @returns {Point[][]}
   */
  function pathOf(story, stage, isSkipped) {
    const isLeft = story.user === people.left;
    const [sender, receiver] = isLeft ? [place.left, place.right] : [place.right, place.left];
    const door = middle(halves(rects[0])[story.door === "socket" ? 1 : 0]);
    const at = (/** @type {number} */ number) => (number ? spot(rects[number]) : door);
    /** @type {Record<string, Rect>} */
    const stations = {
      save: place.mongo,
      cache_message: place.redis,
      cache_conversation: place.redis,
      emit: receiver,
    };
    const number = STAGES[story.type].indexOf(stage);
    if (stage === "request")
      return [
        [middle(sender), door],
        [door, door],
      ];
    if (stage === "respond")
      return [
        [at(5), at(6), middle(sender)],
        [middle(sender), middle(sender)],
      ];
    if (stage === "failed")
      return [
        [door, at(2), middle(place.mongo)],
        [middle(place.mongo), at(2), middle(sender)],
      ];
    const here = at(number);
    const station = stations[stage] && !isSkipped ? { ...middle(stations[stage]) } : here;
    if (stations[stage] === place.redis && !isSkipped)
      Object.assign(station, { x: place.redis.x + place.redis.w - 44, y: here.y });
    return [
      [at(number - 1), here, station],
      [station, here],
    ];
  }

  return { svg, draw };
}

/**
 * @param {Rect} rect
 * @returns {Rect[]}
 */
function halves({ x, y, w, h }) {
  const half = (w - 16) / 2;
  return [
    { x, y, w: half, h },
    { x: x + half + 16, y, w: half, h },
  ];
}

/**
 * The newest message entry of our users, and the window of their conversation.
 *
 * @param {import("./picture.js").Picture} picture
 * @param {People} people
 */
export function shownKeys(picture, { left, right }) {
  const pair = [left, right].sort().join(":");
  const window = [...picture.keys.values()].findLast(({ key }) => key.endsWith(`messages:${pair}`));
  return [picture.newest ?? undefined, window];
}
