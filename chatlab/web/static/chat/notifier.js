/* What a user who is not at the page notices: a desktop notice, a sound, and the number of unread
   messages in the icon of the tab. The first two are off until the user turns them on, in each
   browser. */

import { hasFocus } from "./dom.js";
import { PATH } from "./session.js";
import { read, write } from "./storage.js";

/** @typedef {"desktop" | "sound"} Kind */

const SOUND_S = 0.25;
const BADGE = `<circle cx="23" cy="23" r="9" fill="#c3271c"/>`;

export class Notifier {
  #key;
  #unread = -1; // of the icon that is shown
  icon = /** @type {HTMLLinkElement} */ (document.querySelector("link[rel=icon]"));
  plainIcon = this.icon.href;

  /** @param {string} userId */
  constructor(userId) {
    this.#key = `chatlab-notices ${PATH} ${userId} `;
  }

  /** @param {Kind} kind */
  isOn(kind) {
    const isAllowed = kind === "sound" || globalThis.Notification?.permission === "granted";
    return isAllowed && read(this.#key + kind) === "on";
  }

  /**
   * Turn a kind of notice on or off. Returns false if the browser does not allow it.
   *
   * @param {Kind} kind
   * @param {boolean} on
   */
  async set(kind, on) {
    if (on && kind === "desktop") {
      const permission = await globalThis.Notification?.requestPermission();
      if (permission !== "granted") return false;
    }
    write(this.#key + kind, on ? "on" : "off");
    if (on && kind === "sound") play();
    return true;
  }

  /**
   * Notify a user who is not at the page of a new message.
   *
   * @param {string} name
   * @param {string} text
   * @param {string} address - of the conversation
   */
  notify(name, text, address) {
    if (hasFocus()) return;
    if (this.isOn("sound")) play();
    if (!this.isOn("desktop")) return;
    const notice = new Notification(name, { body: text, tag: address, icon: this.plainIcon });
    notice.onclick = () => {
      window.focus();
      document.location.hash = address;
      notice.close();
    };
  }

  /**
   * Show the number of unread messages in the icon of the tab.
   *
   * @param {number} unread
   */
  async showUnread(unread) {
    if (unread === this.#unread) return;
    this.#unread = unread;
    if (!unread) this.icon.href = this.plainIcon;
    else {
      const text = unread > 9 ? "9+" : String(unread);
      const badge = `${BADGE}<text x="23" y="27" text-anchor="middle" font-family="sans-serif" font-weight="bold" font-size="${unread > 9 ? 10 : 12}" fill="#fff">${text}</text>`;
      const plain = await fetch(this.plainIcon).then(
        (response) => response.text(),
        () => "",
      );
      if (plain && this.#unread === unread)
        this.icon.href = `data:image/svg+xml,${encodeURIComponent(plain.replace("</svg>", `${badge}</svg>`))}`;
    }
  }
}

/** Play a short tone. A browser allows it after the user has done something on the page. */
function play() {
  const context = new AudioContext();
  const [tone, volume] = [context.createOscillator(), context.createGain()];
  tone.frequency.value = 880;
  volume.gain.setValueAtTime(0.12, context.currentTime);
  volume.gain.exponentialRampToValueAtTime(0.001, context.currentTime + SOUND_S);
  tone.connect(volume).connect(context.destination);
  tone.start();
  tone.stop(context.currentTime + SOUND_S);
  tone.onended = () => context.close();
}
