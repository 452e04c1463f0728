/* Swagger UI on this service's own OpenAPI description. Requests go to where this page comes from, path prefix included. */
const here = new URL(".", document.baseURI).href;

try {
  const answer = await fetch(new URL("openapi.json", here));
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const spec = { ...(await answer.json()), servers: [{ url: here.replace(/\/$/, "") }] };
  window.SwaggerUIBundle({ spec, dom_id: "#docs", deepLinking: false, validatorUrl: null, persistAuthorization: false });
} catch {
  document.querySelector("#docs").replaceChildren("The API description cannot be loaded right now. Reload the page to try again.");
}
