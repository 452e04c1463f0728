/* Texts for the user: errors, times, names; and what of a text can be seen or found. */

/**
 * An error of the service, or of the connection to it. `code` is one of the contract, or "offline".
 */
export class ChatError extends Error {
  /**
   * @param {string} code
   * @param {string} detail
   */
  constructor(code, detail = "") {
    super(detail);
    this.code = code;
    this.detail = detail;
  }
}

/** @type {Record<string, string>} */
const TEXTS = {
  offline: "No connection to the chat.",
  store_unavailable: "The chat cannot save or read right now. Try again in a moment.",
  internal: "Something went wrong on our side. Try again in a moment.",
  unauthenticated: "Your session has ended. Log in again.",
};
/** @type {Record<string, string>} */
const FIELDS = {
  username: "The user name",
  password: "The password",
  current: "The current password",
  new: "The new password",
  displayName: "The name",
  text: "The message",
  replyTo: "The original of a reply",
  emoji: "The reaction",
};

/**
 * The text that a user sees for an error.
 *
 * @param {unknown} error
 */
export function describeError(error) {
  if (!(error instanceof ChatError)) return TEXTS.internal;
  if (error.code === "unauthenticated" && /wrong/.test(error.detail)) return error.detail;
  return TEXTS[error.code] ?? (sentence(error.detail) || TEXTS.internal);
}

/**
 * `username: should be ...` becomes `The user name should be ...`.
 *
 * @param {string} detail
 */
function sentence(detail) {
  const named = detail.replace(
    /^(\w+): (?:(?:String|Value|Input) )?(?=should)/,
    (_, field) => `${FIELDS[field] ?? "The input"} `,
  );
  const text = named.replace(/^(\w+): this name/, "This name");
  return text && !/[.!?]$/.test(text) ? `${text}.` : text;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const shortDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const longDay = new Intl.DateTimeFormat(undefined, {
  weekday: "long",
  day: "numeric",
  month: "long",
});
const longDate = new Intl.DateTimeFormat(undefined, {
  day: "numeric",
  month: "long",
  year: "numeric",
});
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "medium" });

/** @typedef {string | number | Date} Moment */
const dayOf = (/** @type {Moment} */ moment) => new Date(moment).setHours(0, 0, 0, 0);
const daysAgo = (/** @type {Moment} */ moment) =>
  Math.round((dayOf(Date.now()) - dayOf(moment)) / 86_400_000);

export const isSameDay = (/** @type {Moment} */ one, /** @type {Moment} */ other) =>
  dayOf(one) === dayOf(other);
export const formatTime = (/** @type {Moment} */ moment) => clock.format(new Date(moment));
export const formatFullTime = (/** @type {Moment} */ moment) => full.format(new Date(moment));

/**
 * For the list of users: 14:05 today, Tue within a week, else 3 May.
 *
 * @param {Moment} moment
 */
export function formatBriefTime(moment) {
  const ago = daysAgo(moment);
  if (ago <= 0) return formatTime(moment);
  return (ago < 7 ? weekday : shortDay).format(new Date(moment));
}

/**
 * For the line between the messages of two days.
 *
 * @param {Moment} moment
 */
export function formatDay(moment) {
  const ago = daysAgo(moment);
  if (ago <= 0) return "Today";
  if (ago === 1) return "Yesterday";
  return (ago < 300 ? longDay : longDate).format(new Date(moment));
}

/**
 * One or two letters for the avatar of a user.
 *
 * @param {string} name
 */
export function initials(name) {
  const words = name
    .trim()
    .split(/\s+/)
    .filter((word) => /[\p{L}\p{N}]/u.test(word));
  const letters = words.map((word) => word.match(/[\p{L}\p{N}]/u)?.[0] ?? "");
  return (letters.length > 1 ? letters[0] + letters.at(-1) : (letters[0] ?? "?")).toUpperCase();
}

/**
 * One of eight colours, always the same one for a user id.
 *
 * @param {string} id
 */
export function colourClass(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + (letter.codePointAt(0) ?? 0)) % 9973;
  return `tint-${sum % 8}`;
}

/** @type {[RegExp, string][]} */
const BROWSERS = [
  [/Edg\//, "Edge"],
  [/OPR\//, "Opera"],
  [/Firefox\//, "Firefox"],
  [/Chrom(e|ium)\//, "Chrome"],
  [/Safari\//, "Safari"],
];
/** @type {[RegExp, string][]} */
const SYSTEMS = [
  [/iPhone|iPad/, "iOS"],
  [/Android/, "Android"],
  [/Windows/, "Windows"],
  [/Mac OS X/, "macOS"],
  [/CrOS/, "ChromeOS"],
  [/Linux/, "Linux"],
];

/**
 * The program of a session: "Firefox on Linux", or the first word of another user agent.
 *
 * @param {string} userAgent
 */
export function describeProgram(userAgent) {
  const nameIn = (/** @type {[RegExp, string][]} */ list) =>
    list.find(([pattern]) => pattern.test(userAgent))?.[1];
  const browser = nameIn(BROWSERS) ?? (userAgent.split(/[\s/]/)[0].slice(0, 40) || "A program");
  const system = nameIn(SYSTEMS);
  return system ? `${browser} on ${system}` : browser;
}

/**
 * A message in one line.
 *
 * @param {{text: string, deletedAt?: string | null}} message
 */
export const plainText = ({ text, deletedAt }) =>
  deletedAt ? "Message deleted" : text.slice(0, 200);

/** Whether anything of a text can be seen. The service rejects other texts. */
export const hasVisible = (/** @type {string} */ text) =>
  /[^\p{White_Space}\p{Default_Ignorable_Code_Point}\p{Cc}\u2800\ufff9-\ufffb]/u.test(text);

/** @type {Record<string, string>} */
const WITHOUT_ACCENT = { ø: "o", ł: "l", đ: "d", ı: "i", ß: "ss", æ: "ae", œ: "oe" };

/**
 * A text as it is searched: without accents, capitals and invisible characters.
 *
 * @param {string} text
 */
export const fold = (text) =>
  text
    .normalize("NFKD")
    .replace(/[\p{M}\p{Cf}]/gu, "")
    .toLowerCase()
    .replace(/[øłđıßæœ]/g, (letter) => WITHOUT_ACCENT[letter]);

/** The length as the service counts it: characters, not UTF-16 units. */
export const countCharacters = (/** @type {string} */ text) => [...text.trim()].length;
