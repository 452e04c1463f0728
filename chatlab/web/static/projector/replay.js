/* The page of a recording: the same picture as on /lab, without a service. */

import { el } from "../chat/dom.js";
import { Stage } from "./stage.js";

const recording = JSON.parse(document.querySelector("#recording")?.textContent ?? "null");
const app = /** @type {HTMLElement} */ (document.querySelector("#app"));

if (recording) {
  const stage = new Stage({ settings: recording.settings, recording });
  app.replaceChildren(stage.element);
  stage.open();
} else app.replaceChildren(el("p.p-wait", {}, "This file has no recording."));
