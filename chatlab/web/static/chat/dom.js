/* Helpers that create and change elements. These pages never parse HTML: what a user wrote stays
   text. */

/** @typedef {Record<string, string | boolean | ((event: any) => unknown)>} Attributes */
/**
 * The element that `el(Name)` creates: of "button.link" a button.
 *
 * @template {string} Name
 * @typedef {Name extends `${infer Tag}.${string}` ? ElementOf<Tag> : Name extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[Name] : HTMLElement} ElementOf
 */

/**
 * Create an element: `el("p.note", {title: "x"}, "text", node)`. `on...` adds a listener; true and
 * false switch an attribute.
 *
 * @template {string} Name
 * @param {Name} name
 * @param {Attributes} attributes
 * @param {(Node | string)[]} children
 */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") node.toggleAttribute(key, value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return /** @type {ElementOf<Name>} */ (node);
}

const SVG = "http://www.w3.org/2000/svg";

/**
 * One of the symbols in index.html. It is decoration: screen readers get the text next to it.
 *
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button with an icon. `label` is its accessible name.
 *
 * @param {string} name
 * @param {string} label
 * @param {() => void} onclick
 * @param {Attributes} attributes
 */
export function iconButton(name, label, onclick, attributes = {}) {
  return el(
    "button.icon-button",
    { type: "button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name),
  );
}

/** Links to the other pages of this service, which the head of this page names. */
export const otherPages = () =>
  [...document.querySelectorAll("link[rel=help]")].map((page) =>
    el("a.link", { href: page.getAttribute("href") ?? "" }, page.getAttribute("title") ?? ""),
  );

/**
 * Set the text if it differs, so that a screen reader does not read the same text twice.
 *
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make `nodes` the children of `parent`. Nodes that are in place already are not moved.
 *
 * @param {Node} parent
 * @param {ChildNode[]} nodes
 */
export function setChildren(parent, nodes) {
  const wanted = new Set(nodes);
  for (const node of [...parent.childNodes]) if (!wanted.has(node)) node.remove();
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
}

/** Whether the user is at this page. A pane of the lab page counts as a part of that page. */
export const hasFocus = () => !document.hidden && (window.top ?? window).document.hasFocus();

/**
 * Let screen readers read this text.
 *
 * @param {string} text
 */
export function announce(text) {
  const line = el("p", {}, text);
  document.querySelector("#announcer")?.append(line);
  setTimeout(() => line.remove(), 5000);
}

/**
 * Show an error for a few seconds at the edge of the page.
 *
 * @param {string} text
 */
export function notice(text) {
  const line = el("p.notice", {}, text);
  const notices = document.querySelector("#notices");
  notices?.append(line);
  for (const old of [...(notices?.children ?? [])].slice(0, -3)) old.remove();
  setTimeout(() => line.remove(), 7000);
}
