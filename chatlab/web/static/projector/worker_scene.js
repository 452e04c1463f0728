/* The background worker: its round, its fork, and its log. */

/** @import { LogLine } from "./picture.js" */
/** @import { Presentation } from "./presentation.js" */
/** @import { People } from "./send_scene.js" */

import {
  arrow,
  defineTip,
  hide,
  mark,
  newBox,
  newScene,
  panel,
  spot,
  text,
  write,
} from "./shapes.js";
import { newWorker, travel } from "./token.js";

const LANDSCAPE = {
  size: [1200, 680],
  boxes: [
    { x: 16, y: 4, w: 560, h: 84 },
    { x: 624, y: 4, w: 560, h: 84 },
    { x: 320, y: 134, w: 560, h: 84 },
    { x: 16, y: 264, w: 560, h: 128 },
    { x: 624, y: 264, w: 560, h: 128 },
  ],
  log: { x: 16, y: 420, w: 1168, h: 256 },
};
const PORTRAIT = {
  size: [840, 1112],
  boxes: [
    { x: 74, y: 4, w: 692, h: 104 },
    { x: 74, y: 158, w: 692, h: 104 },
    { x: 74, y: 311, w: 692, h: 104 },
    { x: 4, y: 484, w: 405, h: 185 },
    { x: 430, y: 484, w: 405, h: 185 },
  ],
  log: { x: 4, y: 716, w: 830, h: 383 },
};
const TITLES = ["Start, every second", "Get keys message:*", "Check each TTL", "", ""];
const ROUND_MS = 800; // of a round that is not shown as a trip

/**
 * @param {People} people
 * @param {boolean} isPortrait
 */
export function workerScene(people, isPortrait) {
  const place = isPortrait ? PORTRAIT : LANDSCAPE;
  const svg = newScene("What the background worker does", place.size[0], place.size[1]);
  defineTip(svg);
  const { boxes: rects, log } = place;
  const pairs = [
    [0, 1],
    [1, 2],
    [2, 3],
    [2, 4],
  ];
  for (const [from, to] of pairs) arrow(svg, rects[from], rects[to]);
  const boxes = rects.map((rect, number) =>
    newBox(svg, rect, TITLES[number], number < 3 ? number + 1 : null),
  );
  fork(3, "Time left", "log “Cache hit”");
  fork(4, "Gone: expired", "log “Cache cleaned”");
  panel(svg, log, "s-log", 18);
  text(svg, { x: log.x + 24, y: log.y + 46 }, "s-note", "Log");
  const lines = Array.from({ length: 3 }, (_, number) =>
    text(svg, { x: log.x + 24, y: log.y + 100 + number * 62 }, "s-mono"),
  );
  const token = newWorker(svg);

  /**
   * @param {number} number
   * @param {string} first
   * @param {string} second
   */
  function fork(number, first, second) {
    const { x, y, w, h } = rects[number];
    const { group } = boxes[number];
    text(group, { x: x + w / 2, y: y + h / 2 - 10 }, "s-title s-centred", first);
    text(group, { x: x + w / 2, y: y + h / 2 + 38 }, "s-note s-centred", second);
  }

  /** @param {Presentation} presentation */
  function draw({ picture, trip, at }) {
    const sweep = trip?.sweep ?? picture.sweeps.at(-1);
    const branch = sweep && sweep.cleaned > 0 ? 4 : sweep && sweep.live > 0 ? 3 : null;
    const share = trip?.sweep
      ? (trip.index + trip.progress) / trip.legs.length
      : sweep
        ? ((at ?? 0) - sweep.at) / ROUND_MS
        : 2;
    const way = [0, 1, 2, ...(branch === null ? [] : [branch])];
    const isRound = share <= 1 && picture.isRedisUp;
    const reached = isRound ? Math.floor(share * way.length) : way.length;
    boxes.forEach((box, number) => {
      const place_ = way.indexOf(number);
      const isNow = isRound && place_ === reached;
      mark(box, isNow ? "now" : sweep && place_ >= 0 && place_ < reached ? "done" : "");
    });
    if (isRound)
      travel(
        token,
        way.map((number) => spot(rects[number])),
        share,
      );
    else hide(token);
    lines.forEach((line, number) => {
      write(line, lineOf(picture.log[number], people, isPortrait));
    });
  }

  return { svg, draw };
}

/**
 * @param {LogLine | undefined} line
 * @param {People} people
 * @param {boolean} isShort
 */
function lineOf(line, people, isShort) {
  if (!line) return "";
  const left = line.leftMs === null || isShort ? "" : `  ${(line.leftMs / 1000).toFixed(1)} s left`;
  return `${line.text}  ${people.short(line.key)}${left}`;
}
