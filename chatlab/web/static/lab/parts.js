// Helpers of the drawings.

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Element} parent
 * @param {Tag} tag
 * @param {string} className
 * @param {string} [text]
 */
export function add(parent, tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/**
 * Add an element of SVG. Numbers are rounded.
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Element | null} parent
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 */
export function part(parent, tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes))
    element.setAttribute(name, typeof value === "number" ? value.toFixed(2) : value);
  parent?.append(element);
  return element;
}

/**
 * Set the text if it differs, so that a screen reader does not read the same text twice.
 *
 * @param {Node} node
 * @param {string} text
 */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Call `draw` once a frame while it returns true, that is, while something moves. Call `begin`
 * after each change.
 *
 * @param {() => boolean} draw
 */
export function animation(draw) {
  let frame = 0;
  let stopped = false;

  function tick() {
    frame = 0;
    if (!stopped && draw()) frame = requestAnimationFrame(tick);
  }

  return {
    begin() {
      if (!frame) tick();
    },
    rest() {
      stopped = true;
    },
    close() {
      stopped = true;
      cancelAnimationFrame(frame);
    },
  };
}
