/* The text of a message as elements: links, `code`, blocks of code between lines of ```, and large
   emoji. Nothing here parses HTML: the pieces of the text become text nodes. */

import { el, iconButton, notice } from "./dom.js";

// Each part of a text that is not shown as it is. A block begins and ends at a line of its own.
const PARTS =
  /^```(?<language>[^\n`]*)\n(?<block>[\s\S]*?)\n?^```[ \t]*(?:\n|$(?![\s\S]))|(?<ticks>`{1,3})(?!`)(?<code>[^\n]*?[^\n`])\k<ticks>(?!`)|(?<link>https?:\/\/[^\s<>"`\p{Cc}\p{Cf}]+)/gimu;
const LARGE_EMOJI = 3; // a text of up to this many emoji is shown larger
const LARGE_EMOJI_LENGTH = 60; // in UTF-16 units: an emoji may be joined of any number of others
// https://www.unicode.org/reports/tr51/#EBNF_and_Regex
const EMOJI_PART = String.raw`\p{Emoji}(?:\p{EMod}|\ufe0f\u20e3?)?(?:[\u{e0020}-\u{e007e}]+\u{e007f})?`;
const EMOJI = String.raw`(?:\p{RI}\p{RI}|${EMOJI_PART}(?:\u200d${EMOJI_PART})*)`;
const ONLY_EMOJI = new RegExp(`^(?:${EMOJI}\\s*){1,${LARGE_EMOJI}}$`, "u");
const PICTURE = /\p{Extended_Pictographic}|\p{RI}|\u20e3/u; // digits are emoji too

/**
 * Whether a text is a few emoji and nothing else.
 *
 * @param {string} text
 */
export const isLargeEmoji = (text) =>
  text.length <= LARGE_EMOJI_LENGTH && PICTURE.test(text) && ONLY_EMOJI.test(text);

/**
 * The nodes that show a text.
 *
 * @param {string} text
 */
export function richText(text) {
  /** @type {(Node | string)[]} */
  const nodes = [];
  let shown = 0;
  for (const match of text.matchAll(PARTS)) {
    const { language, block, code, link } = match.groups ?? {};
    const address = link && withoutPunctuation(link);
    const node = block !== undefined ? codeBlock(block, language) : inline(code, address);
    if (!node) continue;
    nodes.push(text.slice(shown, match.index), node);
    shown = match.index + (address ? address.length : match[0].length);
  }
  return [...nodes, text.slice(shown)].filter((node) => node !== "");
}

/**
 * @param {string | undefined} code
 * @param {string | undefined} address
 */
function inline(code, address) {
  return code ? el("code", { dir: "ltr" }, code) : address ? link(address) : null;
}

/**
 * @param {string} code
 * @param {string} language
 */
function codeBlock(code, language) {
  const copy = iconButton("copy", "Copy the code", () => copyText(code));
  const label = language.trim() ? `Code, ${language.trim()}` : "Code";
  const attributes = { tabindex: "0", role: "group", "aria-label": label, dir: "ltr" };
  return el("div.block", {}, el("pre", attributes, el("code", {}, code)), copy);
}

/** @param {string} text */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    notice("Copied.");
  } catch {
    copyBySelection(text); // the clipboard API exists only on HTTPS pages and on localhost
  }
}

/** @param {string} text */
function copyBySelection(text) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const field = el("textarea.unseen", {});
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
  notice(done ? "Copied." : "The browser did not allow the copy.");
}

/**
 * A link without the characters at its end that belong to the sentence around it.
 *
 * @param {string} address
 */
function withoutPunctuation(address) {
  for (;;) {
    const shorter = address.replace(/[.,;:!?'*_~\u2026\u3002\uff0c]+$/u, "");
    const [open, close] = [/[([{]/g, /[)\]}]/g].map((kind) => shorter.match(kind)?.length ?? 0);
    const next = close > open && /[)\]}]$/.test(shorter) ? shorter.slice(0, -1) : shorter;
    if (next === address) return address;
    address = next;
  }
}

/**
 * A link that opens a new tab, or null if the text is not the address of a page. A user name in an
 * address (`https://bank.example@evil.example`) is there to deceive. The tooltip shows letters of
 * other scripts in the name of a server as punycode.
 *
 * @param {string} address
 */
function link(address) {
  const url = parseUrl(address);
  if (!url?.hostname || url.username || url.password) return null;
  if (url.protocol !== "https:" && url.protocol !== "http:") return null;
  return el(
    "a",
    { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href },
    address,
  );
}

/** @param {string} address */
function parseUrl(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}
