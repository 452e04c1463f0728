"""What OpenAPI says beyond the routes: an introduction, groups, summaries and examples."""

from typing import Any

from chatlab.web.api_examples import EXAMPLES, Example

Json = dict[str, Any]

DESCRIPTION = """
Send a message, read a conversation, and see whether Redis or MongoDB answered.

1. Sign up, or log in: the response has a `token`.
2. Send it with every other request: `Authorization: Bearer <token>`.
3. A body is JSON, with `Content-Type: application/json`.

Every error is a problem (RFC 9457): `code` is fixed, `detail` is a sentence.

Besides these requests, there are the pages `/` (the chat), `/docs` (this API, with examples) and,
with `CHATLAB_FLOW=1`, `/lab` (the live diagram), with their files under `/static`. They accept
`GET` and `HEAD`. Socket.IO is at `/socket.io/`; `/docs` describes its events.
"""

GROUPS = {  # by the beginning of the path; the first one that fits
    "/api/auth": ("Accounts", "Sign up, log in, and everything about your own account."),
    "/api/messages": ("Messages", "Send, read, search, change and react."),
    "/api/lab": ("Live diagram", "For the page `/lab`. Its keys are tokens here."),
    "/api/": ("Conversations and users", "The users you write with, and those you could write to."),
    "/": ("Operations", "For monitoring. No token is needed."),
}


def describe(api: Json) -> None:
    """Add groups, summaries and examples to the OpenAPI document of FastAPI."""
    groups: dict[str, str] = {}
    for path, operations in api["paths"].items():
        group, about = next(found for start, found in GROUPS.items() if path.startswith(start))
        groups[group] = about
        for method, operation in operations.items():
            operation["tags"] = [group]
            if path.startswith("/api/"):
                _use_first_sentence(operation)
            for example in EXAMPLES:
                if example.request == f"{method.upper()} {path}":
                    _add(example, operation)
    api["tags"] = [
        {"name": name, "description": about} for name, about in GROUPS.values() if name in groups
    ]


def _use_first_sentence(operation: Json) -> None:
    """Make the first sentence of the description the summary."""
    first, _, rest = operation.pop("description").partition(".")
    operation["summary"] = first.replace("\n", " ")
    if rest.strip():
        operation["description"] = rest.strip()


def _add(example: Example, operation: Json) -> None:
    if example.body:
        operation["requestBody"]["content"]["application/json"]["example"] = example.body
    if example.response:
        status = next(status for status in operation["responses"] if status.startswith("2"))
        content = operation["responses"][status]["content"]["application/json"]
        content["example"] = example.response
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in example.parameters:
            parameter["example"] = example.parameters[parameter["name"]]
