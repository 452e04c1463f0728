/* Swagger UI for the OpenAPI description of this service. It sends requests to the address of this
   page, with its path prefix, and with the token of the last sign-up or log-in on this page. */

import { load } from "../chat/session.js";

const here = new URL(".", document.baseURI).href.replace(/\/$/, "");
const dark = matchMedia("(prefers-color-scheme: dark)");
const state = /** @type {HTMLElement} */ (document.querySelector("#token-state"));
const useSession = /** @type {HTMLButtonElement} */ (document.querySelector("#use-session"));
/** @type {any} */
let ui = null;

for (const address of document.querySelectorAll(".here")) address.textContent = here;
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

/** @param {{user: {displayName: string}, token: string}} session */
function useToken({ user, token }) {
  ui.preauthorizeApiKey("bearer", token);
  state.textContent = `The requests on this page are those of ${user.displayName}.`;
  useSession.hidden = true;
}

/** @param {{ok: boolean, url: string, text: string}} response */
function received(response) {
  if (response.ok && /\/api\/auth\/(signup|login)$/.test(response.url))
    useToken(JSON.parse(response.text));
  return response;
}

// Swagger UI draws a landmark `main` of its own, and a page may have only one.
const oneMain = new MutationObserver(() => {
  const main = document.querySelector("#docs main");
  if (!main) return;
  main.setAttribute("role", "group");
  oneMain.disconnect();
});

try {
  const response = await fetch(new URL("openapi.json", document.baseURI));
  if (!response.ok) throw new Error(`status ${response.status}`);
  const spec = { ...(await response.json()), servers: [{ url: here }] };
  ui = /** @type {any} */ (window).SwaggerUIBundle({
    spec,
    dom_id: "#docs",
    deepLinking: false,
    validatorUrl: null,
    persistAuthorization: false,
    responseInterceptor: received,
  });
  oneMain.observe(document.body, { childList: true, subtree: true });
  const session = load();
  useSession.hidden = !session;
  useSession.onclick = () => session && useToken(session);
} catch {
  document
    .querySelector("#docs")
    ?.replaceChildren(
      "The API description cannot be loaded right now. Reload the page to try again.",
    );
}
