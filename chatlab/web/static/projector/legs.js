/* The legs of a request: the stages of its diagram in order, also those that it left out. */

/** @import { StageEvent, Story } from "./tape.js" */

/**
 * @typedef {object} Leg
 * @property {string} stage
 * @property {StageEvent | null} step - what really happened
 * @property {number} at - the moment of the tape at which the leg has its effect
 * @property {boolean} isSkipped
 */

/** @type {Record<Story["type"], string[]>} */
export const STAGES = {
  send: ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"],
  change: ["request", "find", "save", "cache_message", "cache_conversation", "emit", "respond"],
  read: ["request", "read_cache", "read_store", "respond"],
};

/**
 * @param {Story} story
 * @returns {Leg[]}
 */
export function legsOf(story) {
  /** @type {Leg[]} */
  const legs = [];
  let at = story.at;
  const last = story.steps.at(-1)?.stage;
  for (const stage of STAGES[story.type]) {
    const step = story.steps.find((known) => known.stage === stage) ?? null;
    at = Math.max(at, step?.at ?? at);
    legs.push({ stage, step, at, isSkipped: !step && stage !== "find" });
    if (story.failed && stage === last)
      return [...legs, { stage: "failed", step: null, at, isSkipped: true }];
  }
  return legs;
}

/**
 * The keys that a request has written, each with the moment at which it did. A read writes what
 * MongoDB has returned.
 *
 * @param {Story} story
 * @returns {Map<string, number>}
 */
export function writtenKeys({ steps }) {
  const filled = steps.find(({ stage }) => stage === "read_store");
  const written = new Map();
  for (const { key, at } of steps) if (key) written.set(key, filled?.at ?? at);
  return written;
}
