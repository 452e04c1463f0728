// The end of a session, and a button that stops the kernel of this notebook.

/** @typedef {{text: string, menu: string, kernel: string}} Model */

/**
 * Return the URL of this kernel in the REST API of the Jupyter server, or nothing in a front end
 * that has no such server.
 *
 * @param {string} kernel
 * @returns {string | undefined}
 */
function urlOf(kernel) {
  const config = document.getElementById("jupyter-config-data")?.textContent;
  if (!config || !kernel) return undefined;
  return `${JSON.parse(config).baseUrl}api/kernels/${kernel}`;
}

/**
 * @param {string} url
 * @returns {Promise<boolean>} true if the kernel was stopped
 */
async function stop(url) {
  const token = /(?:^|; )_xsrf=([^;]*)/.exec(document.cookie)?.[1] ?? "";
  try {
    const reply = await fetch(url, { method: "DELETE", headers: { "X-XSRFToken": token } });
    return reply.ok;
  } catch {
    return false;
  }
}

/**
 * @param {HTMLElement} root
 * @param {Model} model
 */
export default function draw(root, model) {
  const text = document.createElement("p");
  const hint = document.createElement("p");
  text.textContent = model.text;
  hint.textContent = model.menu;
  hint.setAttribute("role", "status");
  root.append(text, hint);

  const url = urlOf(model.kernel);
  if (url) {
    const button = document.createElement("button");
    button.className = "cl-button";
    button.textContent = "Stop the kernel of this notebook";
    button.addEventListener("click", async () => {
      button.disabled = true;
      const stopped = await stop(url);
      hint.textContent = stopped
        ? "The kernel has stopped. To continue, run the notebook from its first cell."
        : model.menu;
      if (stopped) button.remove();
      else button.disabled = false;
    });
    hint.textContent = "The kernel of this notebook still needs 100 MB of memory.";
    root.append(button);
  }
  return { update() {}, close() {} };
}
