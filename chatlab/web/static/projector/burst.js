/* A burst: two users who are on no screen send each other messages over both transports, as fast as
   the service answers. */

/** @import { Player } from "./players.js" */

const CONCURRENCY = 24; // messages that wait for their response

export class Burst {
  isRunning = false;
  done = 0;

  /** @param {Player[]} crowd */
  constructor(crowd) {
    this.crowd = crowd;
  }

  /** @param {number} total */
  async run(total) {
    this.isRunning = true;
    this.done = 0;
    let started = 0;
    const sender = async () => {
      while (this.isRunning && started < total) {
        const number = started++;
        const [from, to] = number % 2 ? [...this.crowd].reverse() : this.crowd;
        const transport = number % 4 < 2 ? "http" : "socket";
        await from.send(transport, to.id, `message ${number + 1}`, () => this.isRunning);
        this.done += 1;
      }
    };
    try {
      await Promise.all(Array.from({ length: CONCURRENCY }, sender));
    } finally {
      this.isRunning = false;
    }
  }

  stop() {
    this.isRunning = false;
  }
}
