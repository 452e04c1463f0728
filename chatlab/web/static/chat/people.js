/* Who there is, who is online, what was written last, what is unread. No DOM here. */

export class People {
  /** `changed` is called after anything has changed; `me` is a user. */
  constructor(me, door, changed) {
    Object.assign(this, { me, door, changed });
    this.byId = new Map([[me.id, { ...me, online: true, unread: 0, lastMessage: null, readUpTo: 0, self: true }]]);
    this.typing = new Map(); // user id -> timer that forgets it
    this.loaded = false;
  }

  get(id) {
    return this.byId.get(id);
  }

  /** The most recent conversation first, then by name; oneself last among those without a message. */
  sorted() {
    const when = (person) => person.lastMessage?.createdAt ?? "";
    const order = (one, other) =>
      when(other).localeCompare(when(one)) || Boolean(one.self) - Boolean(other.self) || one.displayName.localeCompare(other.displayName);
    return [...this.byId.values()].sort(order);
  }

  get unread() {
    return [...this.byId.values()].reduce((sum, person) => sum + person.unread, 0);
  }

  async refresh() {
    const [rows, mine] = await Promise.all([this.door.people(), this.door.messages(this.me.id, { limit: 1 })]);
    for (const row of rows) this.#merge(row);
    if (mine.length) this.#merge({ ...this.get(this.me.id), lastMessage: mine[0] });
    this.loaded = true;
    this.changed();
  }

  /** An answer may be older than an event that came meanwhile: the higher seq wins. */
  #merge(row) {
    const known = this.byId.get(row.id);
    const newer = (known?.lastMessage?.seq ?? 0) > (row.lastMessage?.seq ?? 0);
    const kept = newer ? { lastMessage: known.lastMessage, unread: known.unread } : {};
    this.byId.set(row.id, { ...known, ...row, ...kept, readUpTo: Math.max(known?.readUpTo ?? 0, row.readUpTo ?? 0) });
  }

  /** The other one in a message's conversation. */
  otherIn(message) {
    return message.senderId === this.me.id ? message.receiverId : message.senderId;
  }

  /** A message from an event or an ack; true when it is new here. */
  take(message) {
    const person = this.get(this.otherIn(message));
    if (!person) return void this.refresh().catch(() => {}); // somebody has signed up meanwhile
    const { seq = 0, version = 0 } = person.lastMessage ?? {};
    const fresh = message.seq > seq;
    if (fresh || (message.seq === seq && message.version > version)) person.lastMessage = message;
    if (fresh && message.senderId !== this.me.id) person.unread += 1;
    if (fresh) this.setTyping(person.id, false);
    this.changed();
    return fresh;
  }

  /** Somebody has read everything up to `seq`: in one of my other tabs, or the other one. */
  takeRead({ userId, seq, conversation }) {
    if (userId !== this.me.id) {
      const person = this.get(userId);
      if (person) person.readUpTo = Math.max(person.readUpTo, seq);
    } else {
      const person = [...this.byId.values()].find(({ id }) => conversation === [id, userId].sort().join(":"));
      if (person && (person.lastMessage?.seq ?? 0) <= seq) person.unread = 0;
    }
    this.changed();
  }

  setOnline(ids) {
    const online = new Set(ids);
    if (ids.some((id) => !this.byId.has(id))) this.refresh().catch(() => {});
    for (const person of this.byId.values()) person.online = online.has(person.id);
    this.changed();
  }

  /** Who stops without a word stops after a while. */
  setTyping(id, typing) {
    clearTimeout(this.typing.get(id));
    if (typing) this.typing.set(id, setTimeout(() => this.setTyping(id, false), 6000));
    else this.typing.delete(id);
    this.changed();
  }

  /** Nobody is known to be there. */
  lost() {
    for (const id of this.typing.keys()) this.setTyping(id, false);
    for (const person of this.byId.values()) person.online = false;
    this.changed();
  }
}
