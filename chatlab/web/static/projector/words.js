/* What the page says: one plain sentence at a time, about what happens and why. */

/** @import { Key } from "./picture.js" */
/** @import { Presentation } from "./presentation.js" */
/** @import { Outcome, StageEvent, Story, Sweep } from "./tape.js" */

/** @typedef {(user: string) => string} Name */

export const BEGINNING = {
  presenter: "Press S or H: a message goes on its way, and you can follow it.",
  viewer: "Soon a message goes on its way. Follow it.",
};

/** @type {Record<Outcome, {word: string, title: string, sentence: (reader: string) => string}>} */
export const OUTCOMES = {
  hit: {
    word: "HIT",
    title: "from Redis alone",
    sentence: () => "A hit: Redis has all these messages. MongoDB is not asked at all.",
  },
  partial: {
    word: "PARTIAL",
    title: "from both",
    sentence: () => "A partial hit: Redis has the newest messages, MongoDB adds the older ones.",
  },
  miss: {
    word: "MISS",
    title: "from MongoDB",
    sentence: () =>
      "A miss: Redis has nothing any more, so MongoDB is asked. Its answer goes into Redis too.",
  },
  bypass: {
    word: "BYPASS",
    title: "Redis is not asked",
    sentence: () => "A bypass: Redis is not asked. Everything comes from MongoDB.",
  },
  stale: {
    word: "STALE",
    title: "from a copy of MongoDB",
    sentence: () => "MongoDB’s main server is away, so a copy of it answers.",
  },
};

const FAILED = {
  send: "MongoDB does not answer, so nothing is saved or sent. The sender gets an error, and can try again.",
  change:
    "MongoDB does not answer, so nothing is changed. The user gets an error, and can try again.",
  read: "MongoDB does not answer, so the read fails. The reader can try again.",
};

export const seconds = (/** @type {number} */ ms) => `${Number((ms / 1000).toFixed(1))} s`;
const milliseconds = (/** @type {number} */ ms) => `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;

/**
 * The sentence of one leg of a request. `isSkipped`: the request has left out this stage.
 *
 * @param {Story} story
 * @param {{stage: string, isSkipped: boolean}} leg
 * @param {{name: Name, other: string, ttlMs: number, outcome: Outcome | undefined, isRedisUp: boolean}} about
 */
export function sentenceOf(
  story,
  { stage, isSkipped },
  { name, other, ttlMs, outcome, isRedisUp },
) {
  const who = name(story.user);
  if (stage === "failed") return FAILED[story.type];
  if (isSkipped) return skipped(stage, isRedisUp);
  /** @type {Record<string, () => string>} */
  const sentences = {
    request: () => requestSentence(story, who, other),
    create: () => "The service makes a message of the text: it adds an id and the time.",
    find: () => `The service looks up the message: ${who} must be allowed to change it.`,
    save: () =>
      story.type === "change"
        ? "MongoDB stores the change on disk. Its version goes up by one."
        : "MongoDB stores the message on disk. From now on it is safe.",
    cache_message: () =>
      story.type === "change"
        ? `The copy in Redis is replaced, and its ${seconds(ttlMs)} begin again.`
        : `Redis keeps a copy in memory, for ${seconds(ttlMs)} only. This limit is called TTL: time to live.`,
    cache_conversation: () =>
      story.type === "change"
        ? "The cached conversation gets the new version too, so the old one is not read any more."
        : "The cached conversation gets the message too: a read can now do without MongoDB.",
    emit: () =>
      story.type === "change"
        ? `Both screens show the change at once.`
        : `The message appears on ${other}’s screen. ${other} did not have to ask for it.`,
    respond: () => answerSentence(story, who, outcome),
    read_cache: () => "Before MongoDB, the service asks Redis for the cached conversation.",
    read_store: () => `${OUTCOMES[outcome ?? "miss"].sentence(who)}`,
  };
  return sentences[stage]?.() ?? "";
}

/**
 * @param {string} stage
 * @param {boolean} isRedisUp
 */
function skipped(stage, isRedisUp) {
  if (stage === "read_store") return OUTCOMES.hit.sentence("");
  if (stage === "read_cache") return OUTCOMES.bypass.sentence("");
  return isRedisUp
    ? "The cache is switched off, so this step is left out."
    : "Redis does not answer, so this step is left out. The message is safe in MongoDB.";
}

/**
 * @param {Story} story
 * @param {string} who
 * @param {string} other
 */
function requestSentence({ type, door }, who, other) {
  if (type === "read") return `${who} opens the chat with ${other} and asks for the messages.`;
  if (type === "change") return `${who} changes a message that is already there.`;
  return door === "http"
    ? `${who} writes to ${other}. The message goes to the service as an HTTP request.`
    : `${who} writes to ${other}. The message goes over a WebSocket: a connection that stays open.`;
}

/**
 * @param {Story} story
 * @param {string} who
 * @param {Outcome | undefined} outcome
 */
function answerSentence({ type, steps }, who, outcome) {
  const took = milliseconds(steps.reduce((sum, { tookMs }) => sum + tookMs, 0));
  if (type === "read")
    return `${who} has the messages, ${OUTCOMES[outcome ?? "miss"].title}. In reality this took ${took}.`;
  if (type === "change")
    return `${who} learns that the change is saved. In reality this took ${took}.`;
  return `${who} learns that the message is saved. In reality all of this took ${took}.`;
}

/** Sentences about the life of a key. */
export const LIFE = {
  born: (/** @type {Key} */ { ttlMs }) =>
    `Now the time of the copy in Redis runs: ${seconds(ttlMs)}. Nobody has to remember to delete it.`,
  swept: () =>
    "Once a second a worker looks at the copies. This one has time left: it logs “Cache hit”.",
  later: (/** @type {Key} */ { ttlMs }) =>
    `After ${seconds(0.4 * ttlMs)} the copy is still in Redis. Reading it would not give it more time.`,
  expired: () =>
    "Its time is over: Redis gives it to nobody any more. MongoDB still has the message.",
  gone: () => "The TTL is over, so the copy is gone. The message itself stays in MongoDB.",
};

/** @type {((sweep: Sweep) => string)[]} by leg of the worker's round */
export const WORKER = [
  () => "The background worker makes its round, as it does every second.",
  () => "It asks Redis for all keys of messages.",
  () => "It checks how much time each of them has left.",
  ({ cleaned }) =>
    `${cleaned === 1 ? "One key is" : `${cleaned} keys are`} gone, because Redis removes what has expired. It logs “Cache cleaned”.`,
];

/**
 * The short name of a key: the first digits of an id tell the room nothing.
 *
 * @param {string} key
 * @param {Name} name
 */
export function shortKey(key, name) {
  const message = key.match(/message:[0-9a-f]{20}([0-9a-f]{4})$/);
  if (message) return `message:…${message[1]}`;
  const window = key.match(/messages:([^:]+):([^:]+)$/);
  return window
    ? `messages:${name(window[1]).toLowerCase()}:${name(window[2]).toLowerCase()}`
    : key;
}

/** @param {Presentation} presentation */
export function keyCount({ picture, at, isRedisUp }) {
  if (!isRedisUp) return "?";
  return picture.liveKeys(at ?? 0).length.toLocaleString("en");
}

/** @type {Record<string, string>} of the cache modes */
export const MODES = {
  window: "Cache on: a read asks Redis first.",
  drawn: "As in the document: sends fill the cache, but every read asks MongoDB.",
  off: "No cache: MongoDB does everything.",
};
