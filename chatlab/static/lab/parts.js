// What the drawings are made with.

export function add(parent, tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// Only what has changed is written, so that a screen reader hears nothing twice.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
