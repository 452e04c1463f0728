/* The read flow: from Redis, from MongoDB, or from both. */

/** @import { Presentation, Trip } from "./presentation.js" */
/** @import { People } from "./send_scene.js" */
/** @import { Point } from "./shapes.js" */

import { part } from "../lab/parts.js";
import { STAGES } from "./legs.js";
import { newPhone } from "./phone.js";
import { outcomeOf } from "./picture.js";
import { shownKeys } from "./send_scene.js";
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
  panel,
  set,
  spot,
  text,
  write,
} from "./shapes.js";
import { newDatabase, newRedis } from "./stores.js";
import { newToken, travel } from "./token.js";
import { OUTCOMES } from "./words.js";

const LANDSCAPE = {
  size: [1200, 680],
  box: (/** @type {number} */ number) => ({ x: 290, y: 4 + number * 142, w: 500, h: 96 }),
  phone: { x: 4, y: 4, w: 240, h: 544 },
  redis: { x: 850, y: 84, w: 346, h: 196 },
  mongo: { x: 850, y: 300, w: 346, h: 124 },
  banner: { x: 4, y: 570, w: 1192, h: 106 },
};
const PORTRAIT = {
  size: [840, 1112],
  box: (/** @type {number} */ number) => ({ x: 4, y: 274 + number * 168, w: 494, h: 119 }),
  phone: { x: 4, y: 4, w: 494, h: 254 },
  redis: { x: 544, y: 371, w: 292, h: 242 },
  mongo: { x: 544, y: 630, w: 292, h: 153 },
  banner: { x: 4, y: 951, w: 830, h: 131 },
};
const TITLES = ["HTTP GET", "Ask Redis", "Ask MongoDB", "Return the messages"];

/**
 * @param {People} people
 * @param {boolean} isPortrait
 */
export function readScene(people, isPortrait) {
  const place = isPortrait ? PORTRAIT : LANDSCAPE;
  const svg = newScene("How messages are read", place.size[0], place.size[1]);
  defineTip(svg);
  const rects = TITLES.map((_, number) => place.box(number));
  link(svg, edge(rects[1]), { x: place.redis.x, y: middle(rects[1]).y });
  link(svg, edge(rects[2]), { x: place.mongo.x, y: middle(rects[2]).y });
  for (const [index, rect] of rects.slice(1).entries()) arrow(svg, rects[index], rect);
  const boxes = rects.map((rect, index) => newBox(svg, rect, TITLES[index], index + 1));
  const redis = newRedis(svg, place.redis, 2);
  const mongo = newDatabase(svg, place.mongo);
  const phone = newPhone(svg, place.phone, "");
  const banner = part(svg, "g", { class: "s-banner", visibility: "hidden" });
  panel(banner, place.banner, "s-panel", 18);
  const bannerText = text(
    banner,
    { x: middle(place.banner).x, y: middle(place.banner).y + 19 },
    "s-outcome s-centred",
  );
  const token = newToken(svg);

  /** @param {Presentation} presentation */
  function draw({ picture, trip, at, isRedisUp }) {
    const act = picture.acts.read;
    const own = trip?.story?.type === "read" ? trip : null;
    const current = own ? own.legs[own.index].stage : "";
    const outcome = act ? outcomeOf(act.story) : undefined;
    const isKnown =
      act &&
      (act.done ||
        act.took.read_store !== undefined ||
        current === "respond" ||
        (current === "read_store" && Boolean(own?.hasEffect)));
    STAGES.read.forEach((stage, number) => {
      const isPassed = act?.took[stage] !== undefined;
      const isSkipped = act && !isPassed && (act.done || (own && own.index > number));
      mark(
        boxes[number],
        stage === current && !own?.legs[own.index].isSkipped
          ? "now"
          : isPassed
            ? "done"
            : isSkipped || stage === current
              ? "skipped"
              : "",
      );
      set(boxes[number].group, "data-stage", stage);
      const took = act?.took[stage];
      write(boxes[number].tip, took === undefined ? "" : `${took.toFixed(2)} ms`);
    });
    set(banner, "visibility", isKnown && outcome ? "visible" : "hidden");
    if (outcome) {
      set(svg, "data-outcome", isKnown ? outcome : "");
      write(bannerText, `${OUTCOMES[outcome].word}: ${OUTCOMES[outcome].title}`);
    }
    redis.draw([shownKeys(picture, people)[1]], at ?? 0, people.short, isRedisUp);
    mongo.draw(picture, act?.took.read_store !== undefined);
    const reader = act?.story.user ?? people.right;
    write(phone.title, people.name(reader));
    phone.draw(picture.screens[reader] ?? []);
    if (own) moveToken(own);
    else hide(token);
  }

  /** @param {Trip} trip */
  function moveToken({ legs, index, progress }) {
    const [there, back] = pathOf(legs[index].stage, legs[index].isSkipped);
    if (progress < 0.5) travel(token, there, progress * 2);
    else travel(token, back, progress * 2 - 1);
  }

  /**
   * @param {string} stage
   * @param {boolean} isSkipped
   * @returns {Point[][]}
   */
  function pathOf(stage, isSkipped) {
    const number = Math.max(0, STAGES.read.indexOf(stage));
    const [here, before] = [spot(rects[number]), spot(rects[Math.max(0, number - 1)])];
    const home = middle(place.phone);
    if (stage === "request")
      return [
        [home, here],
        [here, here],
      ];
    if (stage === "failed")
      return [
        [spot(rects[0]), spot(rects[2]), middle(place.mongo)],
        [middle(place.mongo), spot(rects[2]), home],
      ];
    if (stage === "respond")
      return [
        [before, here, home],
        [home, home],
      ];
    const store = stage === "read_cache" ? place.redis : place.mongo;
    const station = isSkipped ? here : { x: middle(store).x, y: here.y };
    return [
      [before, here, station],
      [station, here],
    ];
  }

  return { svg, draw };
}
