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

// Draws once a frame for as long as `draw` says that something moves; `begin` again when there is news.
export function animation(draw) {
  let frame = 0;
  let resting = false;

  function tick() {
    frame = 0;
    if (!resting && draw()) frame = requestAnimationFrame(tick);
  }

  return {
    begin() {
      if (!frame) tick();
    },
    rest() {
      resting = true;
    },
    close() {
      resting = true;
      cancelAnimationFrame(frame);
    },
  };
}
