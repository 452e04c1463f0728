/* Elements made of names, attributes and text. Nothing in these pages is ever parsed as HTML: what a person wrote stays text. */

/** `el("p.note", {title: "x"}, "text", node)`; `on...` are listeners, true and false switch an attribute. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") node.toggleAttribute(key, value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the symbols in index.html. Decoration: the words are beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon and says its name. */
export function iconButton(name, label, onclick, attributes = {}) {
  return el("button.icon-button", { type: "button", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** Set a text only when it differs, so that nothing is drawn or read out twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Bring a parent's children into this order, touching only those that are not in place. */
export function arrange(parent, nodes) {
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/** Read something out to those who listen instead of looking. */
export function announce(text) {
  const line = el("p", {}, text);
  document.querySelector("#announcer").append(line);
  setTimeout(() => line.remove(), 5000);
}

/** A short notice at the edge of the page, for what went wrong. */
export function notice(text) {
  const line = el("p.notice", {}, text);
  const notices = document.querySelector("#notices");
  notices.append(line);
  while (notices.children.length > 3) notices.firstChild.remove();
  setTimeout(() => line.remove(), 7000);
}
