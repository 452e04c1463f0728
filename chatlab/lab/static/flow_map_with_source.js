// The flow map as the document draws it: two transports at the top, and the boxes below each other.
// A click or Enter on a box shows its functions, from the files that run.
// `about`: {of, faces, sources: {stage: [{name, file, first, last, text}]}}.

import { flowMap } from "../../web/static/lab/flow_map.js";
import { add } from "../../web/static/lab/parts.js";

function flowMapWithSource(root, model, { about, big }) {
  const label = `The boxes that a ${about.of} passes; Enter shows the source of a box`;
  const drawing = flowMap(root, model, { big, faces: about.faces, apart: true, label });
  const map = root.querySelector(".cl-map");
  map.classList.add("cl-drawn");
  const way = add(map, "button", "cl-way", `The whole way: ${about.sources.way[0].name}`);
  way.dataset.stage = "way";
  const shown = add(map, "section", "cl-source");
  shown.hidden = true;
  shown.setAttribute("aria-live", "polite");
  const boxes = [...map.querySelectorAll(".cl-box"), way];
  map.querySelector("ol").setAttribute("role", "group");
  for (const box of boxes) prepare(box);
  way.title = "Show the function that goes through all boxes";

  function prepare(box) {
    box.setAttribute("role", "button");
    box.setAttribute("aria-expanded", "false");
    box.title = "Show the source of this box";
    box.addEventListener("click", () => toggle(box));
    box.addEventListener("keydown", (event) => press(event, box));
  }

  function press(event, box) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") toggle(box);
    else if (event.key === "Escape") close();
    else if (step) boxes[boxes.indexOf(box) + step]?.focus();
    else return;
    event.preventDefault();
  }

  function toggle(box) {
    const open = box.getAttribute("aria-expanded") === "true";
    close();
    if (open) return;
    box.setAttribute("aria-expanded", "true");
    shown.replaceChildren(...about.sources[box.dataset.stage].map(listing));
    shown.hidden = false;
  }

  function close() {
    for (const box of boxes) box.setAttribute("aria-expanded", "false");
    shown.hidden = true;
  }

  return drawing;
}

function listing({ name, file, first, last, text }) {
  const figure = document.createElement("figure");
  const caption = add(figure, "figcaption", "cl-file");
  add(caption, "strong", "", name);
  add(caption, "span", "", ` ${file}, lines ${first} to ${last}`);
  const code = add(figure, "pre", "cl-code");
  code.tabIndex = 0;
  lines(text).forEach((pieces, count) => {
    const row = add(code, "span", "cl-line");
    add(row, "span", "cl-number", String(first + count));
    for (const [kind, piece] of pieces) add(row, "span", kind, piece);
    row.append("\n");
  });
  return figure;
}

const TOKENS =
  /(?<remark>#.*)|(?<text>"""[\s\S]*?"""|f?"[^"\n]*")|\b(?<word>async|await|def|class|return|if|else|elif|for|in|not|is|and|or|None|True|False|with|as|try|except|raise|yield|while|lambda|assert|match|case|del)\b/g;

// Return the text as lines of [class, piece]. Only comments, strings and keywords are highlighted.
function lines(text) {
  const found = [[]];
  const put = (kind, piece) =>
    piece.split("\n").forEach((part, count) => {
      if (count) found.push([]);
      found.at(-1).push([kind, part]);
    });
  let done = 0;
  for (const match of text.matchAll(TOKENS)) {
    put("", text.slice(done, match.index));
    put(
      `cl-${Object.keys(match.groups).find((kind) => match.groups[kind] !== undefined)}`,
      match[0],
    );
    done = match.index + match[0].length;
  }
  put("", text.slice(done));
  return found;
}
