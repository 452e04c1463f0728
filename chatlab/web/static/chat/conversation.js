/* What is known of one conversation: an unbroken stretch of its messages by seq, and what waits to be sent. No DOM here.

   Events are hints. A message that does not follow the last one shows that some were missed; then MongoDB is asked for all
   after the last. The higher version of a message wins, whichever way it came. */

const PAGE = 50; // messages loaded as one scrolls up
const CATCH_UP = 200; // messages asked for at once after an absence

export class Conversation {
  #wanted = 0; // highest seq heard of
  #catchingUp = null;
  #loadingOlder = null;

  /** `changed` is called after anything has changed. */
  constructor(me, other, door, changed) {
    Object.assign(this, { me, other, door, changed });
    this.messages = []; // oldest first, seq without gaps
    this.pending = []; // {clientId, text, createdAt, state: "sending" | "failed", error}
    this.loaded = false;
    this.trouble = null; // why older messages could not be loaded
  }

  get first() {
    return this.messages.length ? this.messages[0].seq : 1;
  }

  get last() {
    return this.messages.length ? this.messages.at(-1).seq : 0;
  }

  get complete() {
    return this.loaded && this.first === 1;
  }

  get loading() {
    return this.#loadingOlder !== null;
  }

  // --- what comes in ---------------------------------------------------------------------------------------------------

  /** A message from an event, an ack or a page. */
  take(message) {
    this.#wanted = Math.max(this.#wanted, message.seq);
    if (!this.loaded) return;
    if (message.seq === this.last + 1) this.messages.push(message);
    else if (message.seq <= this.last) this.#replace(message);
    else return void this.catchUp();
    this.#settle(message);
    this.changed();
  }

  #replace(message) {
    const place = message.seq - this.first;
    if (place >= 0 && this.messages[place].version < message.version) this.messages[place] = message;
  }

  /** What waited under this client id has arrived. */
  #settle(message) {
    if (message.senderId === this.me && message.clientId) {
      this.pending = this.pending.filter((waiting) => waiting.clientId !== message.clientId);
    }
  }

  // --- what is asked for -----------------------------------------------------------------------------------------------

  /** The newest page at first, else the next one above. */
  loadOlder() {
    if (!this.#loadingOlder && !this.complete) {
      this.trouble = null;
      this.#loadingOlder = this.#loadOlder().catch((error) => (this.trouble = error)).finally(() => {
        this.#loadingOlder = null;
        this.changed();
      });
      this.changed();
    }
    return this.#loadingOlder;
  }

  async #loadOlder() {
    const page = await this.door.messages(this.other, this.loaded ? { limit: PAGE, before: this.first } : { limit: PAGE });
    if (this.loaded && page.length && page.at(-1).seq !== this.first - 1) return;
    this.messages.unshift(...page);
    this.loaded = true;
    page.forEach((message) => this.#settle(message));
    if (this.last < this.#wanted) this.catchUp();
  }

  /** All after the last message. Failing is harmless: the next connection, or message, asks again. */
  catchUp() {
    if (!this.loaded) return this.loadOlder();
    this.#catchingUp ??= this.#catchUp().catch(() => {}).finally(() => (this.#catchingUp = null));
    return this.#catchingUp;
  }

  async #catchUp() {
    let page, asked;
    do {
      asked = this.#wanted;
      page = await this.door.messages(this.other, { after: this.last, limit: CATCH_UP });
      this.#takeAll(page);
    } while (page.length === CATCH_UP || this.#wanted > Math.max(asked, this.last));
  }

  /** After an absence: load what is new, retry the older page that the absence cost, then update the stretch that is shown. */
  async refresh() {
    await this.catchUp();
    if (this.trouble?.code === "offline") await this.loadOlder();
    for (let after = this.first - 1; this.loaded && after < this.last; after += CATCH_UP) {
      const page = await this.door.messages(this.other, { after, limit: CATCH_UP });
      this.#takeAll(page);
    }
  }

  #takeAll(page) {
    for (const message of page) if (message.seq <= this.last + 1) this.take(message);
  }
}
