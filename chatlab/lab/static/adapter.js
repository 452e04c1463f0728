// From a drawing (chatlab/static/lab) to a notebook's widget: the model goes in, changes go in, errors of the kernel's background work show.
// The kernel's clock may not be the browser's: each change says when it was sent, and the drawing is given that clock.

function widget(draw) {
  return {
    render({ model, el }) {
      let behind = 0;
      const options = { big: model.get("big"), now: () => Date.now() - behind };
      const drawing = draw(el, model.get("model"), options);
      const alarm = document.createElement("p");
      alarm.className = "cl-error";
      alarm.setAttribute("role", "alert");
      el.append(alarm);

      const complain = () => {
        alarm.textContent = model.get("error");
        alarm.hidden = !alarm.textContent;
      };
      const change = () => {
        const changed = model.get("model");
        if (changed.sentMs) behind = Date.now() - changed.sentMs;
        drawing.update(changed);
      };
      complain();
      model.on("change:error", complain);
      model.on("change:model", change);
      return () => {
        model.off("change:error", complain);
        model.off("change:model", change);
        drawing.close();
      };
    },
  };
}
