// The module that anywidget loads for every widget. It connects the widget's drawing to the model:
// it passes the model and its updates to the drawing, sends the user's actions to the kernel, and
// shows errors of the kernel's background tasks. The clocks of the kernel and the browser may
// differ: each update says when it was sent, and the drawing uses that clock.

/**
 * The synced traits of a widget.
 *
 * @typedef {object} Traits
 * @property {Record<string, string>} modules - the sources by name; "drawing" has a default export
 * @property {any} about - what the drawing needs once
 * @property {any} model - with `sentMs`, if the drawing depends on the kernel's clock
 * @property {string} error
 * @property {boolean} resting - no longer live
 * @property {boolean} big - for a projector
 */

/**
 * What a drawing receives besides its element and its model.
 *
 * @typedef {object} Options
 * @property {any} about
 * @property {boolean} big
 * @property {() => number} now - the time of the kernel, in milliseconds since 1970
 * @property {(content: object) => void} tell - sends a message to the kernel
 */

/** @typedef {{update(model: any): void, rest?(): void, close(): void}} Drawing */
/** @typedef {(root: HTMLElement, model: any, options: Options) => Drawing} Draw */

/**
 * Return a blob: URL of a module. In a notebook the modules have no addresses, so every module that
 * it imports gets a blob: URL, too. `urls` are those of the modules that have one already.
 *
 * @param {string} name
 * @param {Record<string, string>} modules
 * @param {Map<string, string>} urls
 * @returns {string}
 */
function urlOf(name, modules, urls) {
  const linked = modules[name].replace(
    / from ".*\/(\w+\.js)";$/gm,
    (_, imported) => ` from "${urls.get(imported) ?? urlOf(imported, modules, urls)}";`,
  );
  const url = URL.createObjectURL(new Blob([linked], { type: "text/javascript" }));
  urls.set(name, url);
  return url;
}

/** @type {() => import("@anywidget/types").AnyWidget<Traits>} */
export default () => {
  /** @type {Draw} */
  let draw;

  return {
    async initialize({ model }) {
      draw = (await import(urlOf("drawing", model.get("modules"), new Map()))).default;
    },

    render({ model, el }) {
      // keys pressed here are for the widget, not for the notebook
      el.dataset.lmSuppressShortcuts = "true";
      let behind = 0;
      const drawing = draw(el, model.get("model"), {
        about: model.get("about"),
        big: model.get("big"),
        now: () => Date.now() - behind,
        tell: (content) => model.send(content),
      });
      const alarm = document.createElement("p");
      alarm.className = "cl-error";
      alarm.setAttribute("role", "alert");
      el.append(alarm);

      function complain() {
        alarm.textContent = model.get("error");
        alarm.hidden = !alarm.textContent;
      }
      function change() {
        const changed = model.get("model");
        if (changed.sentMs) behind = Date.now() - changed.sentMs;
        drawing.update(changed);
      }
      function rest() {
        el.classList.toggle("cl-resting", model.get("resting"));
        if (model.get("resting")) drawing.rest?.();
      }
      complain();
      rest();
      model.on("change:error", complain);
      model.on("change:model", change);
      model.on("change:resting", rest);
      return () => {
        model.off("change:error", complain);
        model.off("change:model", change);
        model.off("change:resting", rest);
        drawing.close();
      };
    },
  };
};
