/* Swagger UI for the OpenAPI description of this service. It sends requests to the address of this
   page, with its path prefix. */

const here = new URL(".", document.baseURI).href;

try {
  const response = await fetch(new URL("openapi.json", here));
  if (!response.ok) throw new Error(`status ${response.status}`);
  const spec = { ...(await response.json()), servers: [{ url: here.replace(/\/$/, "") }] };
  /** @type {any} */ (window).SwaggerUIBundle({
    spec,
    dom_id: "#docs",
    deepLinking: false,
    validatorUrl: null,
    persistAuthorization: false,
  });
} catch {
  document
    .querySelector("#docs")
    ?.replaceChildren(
      "The API description cannot be loaded right now. Reload the page to try again.",
    );
}
