/* What the users of the page do, one after the other: send, read, react and edit. */

/** @import { Player } from "./players.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Message, Story } from "./tape.js" */

import { describeError } from "../chat/format.js";

const TEXTS = [
  "Hello!",
  "Lunch?",
  "On my way",
  "See you!",
  "Good idea",
  "Thank you",
  "Where?",
  "I am here",
];
const REACTION = "👍";

export class Actions {
  #sent = 0;
  /** @type {Message | null} */
  #newest = null;
  #hasReaction = false;
  #readUpTo = 0; // the seq of the newest message that was read
  /** Begin: the page receives stage events, or cannot. Actions before that wait, to be seen. */
  begin = () => {};
  /** @type {Promise<unknown>} */
  #queue = new Promise((resolve) => (this.begin = () => resolve(undefined)));

  /**
   * @param {Stage} stage
   * @param {(error: string | false) => void} showError
   */
  constructor(stage, showError) {
    this.stage = stage;
    this.showError = showError;
  }

  get players() {
    if (!this.stage.players) throw new Error("viewers have no users");
    return this.stage.players;
  }

  /** @param {"http" | "socket"} transport */
  send(transport, text = TEXTS[this.#sent++ % TEXTS.length]) {
    return this.attempt(() => this.#send(transport, text));
  }

  /**
   * @param {"http" | "socket"} transport
   * @param {string} text
   */
  async #send(transport, text) {
    const { left, right } = this.players;
    const request = { type: /** @type {const} */ ("send"), door: transport, user: left.id };
    this.#newest = await this.#shown(request, left.send(transport, right.id, text));
    this.#hasReaction = false;
    this.stage.remember(this.#newest);
  }

  /** Read what is new, and at least the newest message. */
  read() {
    return this.attempt(async () => {
      const { left, right, lastSeq } = this.players;
      const unread = Math.min(this.#readUpTo, (this.#newest?.seq ?? 0) - 1);
      const request = { type: /** @type {const} */ ("read"), door: "http", user: right.id };
      const reading = right.read(left.id, { after: Math.max(lastSeq, unread) });
      const { body } = await this.#shown(request, reading);
      this.#readUpTo = body.at(-1)?.seq ?? this.#readUpTo;
    });
  }

  react() {
    const { right } = this.players;
    return this.#change(right, async ({ _id }) => {
      await right.react(_id, REACTION, !this.#hasReaction);
      this.#hasReaction = !this.#hasReaction;
    });
  }

  /** @param {string} text */
  edit(text) {
    const { left } = this.players;
    return this.#change(left, ({ _id }) => left.edit(_id, text));
  }

  /**
   * @param {Player} player
   * @param {(message: Message) => Promise<unknown>} change
   */
  #change(player, change) {
    return this.attempt(async () => {
      if (!this.#newest) await this.#send("socket", TEXTS[this.#sent++ % TEXTS.length]);
      const request = { type: /** @type {const} */ ("change"), door: "http", user: player.id };
      if (this.#newest) await this.#shown(request, change(this.#newest));
    });
  }

  /**
   * Wait for the answer. If MongoDB does not give one, the picture shows that.
   *
   * @template Result
   * @param {Pick<Story, "type" | "door" | "user">} request
   * @param {Promise<Result>} answer
   */
  async #shown(request, answer) {
    try {
      return await answer;
    } catch (error) {
      if (error.code === "store_unavailable") this.stage.failed(request);
      throw error;
    }
  }

  /**
   * Do something when everything before has been done, and show its error.
   *
   * @param {() => Promise<unknown>} action
   */
  attempt(action) {
    this.#queue = this.#queue.then(action).then(
      () => this.showError(false),
      (error) => this.showError(describeError(error)),
    );
    return this.#queue;
  }
}
