/* The other users: who is online, the last message and the number of unread messages of each conversation.
   This module does not touch the DOM. */

const TYPING_LIMIT_MS = 6000;

export class Contacts {
  /** `me` is a user. `changed` is called after each change. */
  constructor(me, api, changed) {
    Object.assign(this, { me, api, changed });
    this.byId = new Map([
      [me.id, { ...me, online: true, unread: 0, lastMessage: null, readUpTo: 0, self: true }],
    ]);
    this.typing = new Map(); // user id -> timer that removes the entry
    this.loaded = false;
  }

  get(id) {
    return this.byId.get(id);
  }

  /** All users, the most recent conversation first, then by name. Without messages, the user's own entry is last. */
  sorted() {
    const time = (user) => user.lastMessage?.createdAt ?? "";
    const order = (one, other) =>
      time(other).localeCompare(time(one)) ||
      Boolean(one.self) - Boolean(other.self) ||
      one.displayName.localeCompare(other.displayName);
    return [...this.byId.values()].sort(order);
  }

  get unread() {
    return [...this.byId.values()].reduce((sum, user) => sum + user.unread, 0);
  }

  async refresh() {
    const [rows, mine] = await Promise.all([
      this.api.users(),
      this.api.messages(this.me.id, { limit: 1 }),
    ]);
    for (const row of rows) this.#merge(row);
    if (mine.length) this.#merge({ ...this.get(this.me.id), lastMessage: mine[0] });
    this.loaded = true;
    this.changed();
  }

  /** A response may be older than an event that has arrived meanwhile: the higher seq wins. */
  #merge(row) {
    const known = this.byId.get(row.id);
    const newer = (known?.lastMessage?.seq ?? 0) > (row.lastMessage?.seq ?? 0);
    const kept = newer ? { lastMessage: known.lastMessage, unread: known.unread } : {};
    this.byId.set(row.id, {
      ...known,
      ...row,
      ...kept,
      readUpTo: Math.max(known?.readUpTo ?? 0, row.readUpTo ?? 0),
    });
  }

  /** The id of the other participant. */
  partnerOf(message) {
    return message.senderId === this.me.id ? message.receiverId : message.senderId;
  }

  /** Take in a message from an event or an acknowledgement. Returns true if it is new here. */
  take(message) {
    const partner = this.get(this.partnerOf(message));
    if (!partner) return void this.refresh().catch(() => {}); // a user who has signed up meanwhile
    const { seq = 0, version = 0 } = partner.lastMessage ?? {};
    const isNew = message.seq > seq;
    if (isNew || (message.seq === seq && message.version > version)) partner.lastMessage = message;
    if (isNew && message.senderId !== this.me.id) partner.unread += 1;
    if (isNew) this.setTyping(partner.id, false);
    this.changed();
    return isNew;
  }

  /** A user has read everything up to `seq`: the partner, or I myself in another tab. */
  takeRead({ userId, seq, conversation }) {
    if (userId !== this.me.id) {
      const partner = this.get(userId);
      if (partner) partner.readUpTo = Math.max(partner.readUpTo, seq);
    } else {
      const partner = [...this.byId.values()].find(
        ({ id }) => conversation === [id, userId].sort().join(":"),
      );
      if (partner && (partner.lastMessage?.seq ?? 0) <= seq) partner.unread = 0;
    }
    this.changed();
  }

  setOnline(ids) {
    const online = new Set(ids);
    if (ids.some((id) => !this.byId.has(id))) this.refresh().catch(() => {});
    for (const user of this.byId.values()) user.online = online.has(user.id);
    this.changed();
  }

  /** Show that a user is typing, for at most TYPING_LIMIT_MS: the event that ends it may be lost. */
  setTyping(id, typing) {
    clearTimeout(this.typing.get(id));
    if (typing)
      this.typing.set(
        id,
        setTimeout(() => this.setTyping(id, false), TYPING_LIMIT_MS),
      );
    else this.typing.delete(id);
    this.changed();
  }

  /** Show all users as offline: without a connection their state is unknown. */
  lost() {
    for (const id of this.typing.keys()) this.setTyping(id, false);
    for (const user of this.byId.values()) user.online = false;
    this.changed();
  }
}
