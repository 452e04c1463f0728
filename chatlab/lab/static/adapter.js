// Connect a drawing to a notebook's widget: pass the model and its updates to the drawing, send the
// user's actions to the kernel, and show errors of the kernel's background tasks. The clocks of the
// kernel and the browser may differ: each update says when it was sent, and the drawing uses that clock.

function widget(draw) {
  return {
    render({ model, el }) {
      el.dataset.lmSuppressShortcuts = "true"; // keys pressed here are for the widget, not for the notebook
      let behind = 0;
      const now = () => Date.now() - behind;
      const options = {
        about: model.get("about"),
        big: model.get("big"),
        now,
        tell: (content) => model.send(content),
      };
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
      const rest = () => {
        el.classList.toggle("cl-resting", model.get("resting"));
        if (model.get("resting")) drawing.rest?.();
      };
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
}
