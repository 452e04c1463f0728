/* Files cannot be sent. If one is dropped, the page explains that instead of opening it. */

import { notice } from "./dom.js";

const SENTENCE = "Files cannot be sent here. Put the file somewhere else and send a link to it.";

/** @param {AbortSignal} signal - ends it */
export function refuseFiles(signal) {
  const hasFiles = (/** @type {DataTransfer | null} */ data) => data?.types.includes("Files");
  document.addEventListener(
    "dragover",
    (event) => {
      if (hasFiles(event.dataTransfer)) event.preventDefault();
    },
    { signal },
  );
  document.addEventListener(
    "drop",
    (event) => {
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      notice(SENTENCE);
    },
    { signal },
  );
  document.addEventListener(
    "paste",
    ({ clipboardData }) => {
      // Programs such as spreadsheets put a picture next to the text. Then the text is pasted.
      const isText = clipboardData?.types.includes("text/plain");
      if (hasFiles(clipboardData) && !isText) notice(SENTENCE);
    },
    { signal },
  );
}
