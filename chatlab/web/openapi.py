"""Describe the routes for OpenAPI.

The endpoints read the request and write the response themselves (see `fast_path`), so FastAPI
cannot derive the schemas from their signatures.
"""

import re
from typing import Any

import msgspec
from fastapi import FastAPI

from chatlab.domain.message import Message
from chatlab.domain.requests import Request as RequestModel
from chatlab.web.problems import PROBLEM_JSON

Schema = dict[str, Any]


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_TIME: Schema = {"type": "string", "format": "date-time"}

MESSAGE = msgspec.json.schema_components([Message])[1]["Message"]
MESSAGE["properties"] |= {
    "createdAt": _TIME,
    "editedAt": _nullable(_TIME),
    "deletedAt": _nullable(_TIME),
}
MESSAGES = _array(MESSAGE)
USER = _object({"id": _STRING, "displayName": _STRING, "createdAt": _TIME})
SESSION = _object({"user": USER, "token": _STRING})
CONTACTS = _array(
    _object(
        USER["properties"]
        | {"online": {"type": "boolean"}, "unread": _INTEGER}
        | {"lastMessage": _nullable(MESSAGE), "readUpTo": _INTEGER}
    )
)
PROBLEM = _object(
    {"type": _STRING, "title": _STRING, "status": _INTEGER, "detail": _STRING, "code": _STRING}
)

X_CACHE: Schema = {
    "X-Cache": {
        "description": "Where the messages came from: from Redis, from both servers, "
        "from MongoDB after a cache miss, or from MongoDB without asking Redis",
        "schema": {"enum": ["hit", "partial", "miss", "bypass"]},
    }
}
_RETRY_AFTER: Schema = {
    "Retry-After": {"description": "Seconds until a retry can succeed", "schema": _INTEGER}
}


def _content(schema: Schema | None, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}} if schema else {}


_PROBLEM_CONTENT = _content(PROBLEM, PROBLEM_JSON)
ERROR_RESPONSES: dict[int | str, Schema] = {
    429: {"description": "Too many requests", "headers": _RETRY_AFTER, **_PROBLEM_CONTENT},
    503: {"description": "MongoDB does not answer", "headers": _RETRY_AFTER, **_PROBLEM_CONTENT},
    "default": {"description": "An error", **_PROBLEM_CONTENT},
}
_HEALTH_CONTENT = _content(_object({"status": _STRING, "mongodb": _STRING, "redis": _STRING}))
HEALTH_RESPONSES: dict[int | str, Schema] = {
    200: {"description": "The service can save messages", **_HEALTH_CONTENT},
    503: {
        "description": "The service cannot save messages: MongoDB does not answer",
        **_HEALTH_CONTENT,
    },
}


def describe_route(
    path: str,
    *,
    body: type[RequestModel] | None = None,
    query: type[RequestModel] | None = None,
    status: int = 200,
    result: Schema | None = None,
    headers: Schema | None = None,
    public: bool = False,
) -> dict[str, Any]:
    """Return the arguments of FastAPI's `add_api_route` that describe a route.

    `result` is the schema of the response with this status. A public route needs no token.
    """
    success = {"description": "Success", **_content(result)}
    if headers:
        success["headers"] = headers
    parameters = [_parameter(name, "path", _STRING) for name in re.findall(r"{(\w+)}", path)]
    if query:
        fields = query.model_json_schema()["properties"]
        parameters += [_parameter(name, "query", schema) for name, schema in fields.items()]
    extra: Schema = {"parameters": parameters, "security": [] if public else [{"bearer": []}]}
    if body:
        extra["requestBody"] = {"required": True, **_content(body.model_json_schema())}
    return {
        "status_code": status,
        "responses": {status: success, **ERROR_RESPONSES},
        "openapi_extra": extra,
    }


def _parameter(name: str, place: str, schema: Schema) -> Schema:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def describe_bearer_token(app: FastAPI) -> None:
    """Add the bearer token, which the routes require, to the app's OpenAPI schema."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        bearer = {"bearer": {"type": "http", "scheme": "bearer"}}
        schema.setdefault("components", {})["securitySchemes"] = bearer
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents
