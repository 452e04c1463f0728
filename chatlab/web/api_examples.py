"""A real example of each request and its response, for OpenAPI.

A test plays them in this order against a service, and compares the responses. Ada and Ben have an
account each; ids, times and tokens differ each time.
"""

from typing import Any, NamedTuple

Json = dict[str, Any]


class Example(NamedTuple):
    """`parameters` are those of the path and of the query, by name."""

    request: str
    response: Any = None
    body: Json | None = None
    parameters: dict[str, str | int] = {}  # noqa: RUF012 - a tuple is never changed


TIME = "2026-11-27T09:30:00.000Z"
PASSWORD, NEW_PASSWORD = "correct horse battery", "staple by the window"
TOKEN = "Jc0Gq3hXrT1vK9nS5wYbZ2mLfD8uPeA4oQ7iR6tC0sE"  # noqa: S105
MESSAGE_ID = "6b096c4918acb61b904bc315"
SESSION_ID = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
THUMB = "\N{THUMBS UP SIGN}"

ADA = {"id": "ada", "displayName": "Ada", "createdAt": TIME}
BEN = {"id": "ben", "displayName": "Ben", "createdAt": TIME}
MESSAGE: Json = {
    "_id": MESSAGE_ID,
    "seq": 1,
    "version": 1,
    "senderId": "ada",
    "receiverId": "ben",
    "text": "Hello, Ben!",
    "clientId": "a-random-text-1",
    "reactions": {},
    "createdAt": TIME,
    "editedAt": None,
    "deletedAt": None,
    "replyTo": None,
}
EDITED = MESSAGE | {"version": 4, "text": "Hello, Ben! Lunch?", "editedAt": TIME}
STATE = {
    "online": False,
    "unread": 0,
    "lastMessage": EDITED,
    "readUpTo": 0,
    "muted": False,
    "blocked": False,
    "deleted": False,
}
ONE_MESSAGE: dict[str, str | int] = {"userId": "ben", "messageId": MESSAGE_ID}
THE_MESSAGE: dict[str, str | int] = {"messageId": MESSAGE_ID}
REACTION = THE_MESSAGE | {"emoji": THUMB}
TO_BEN: dict[str, str | int] = {"userId": "ben"}

EXAMPLES = [
    Example("GET /healthz", {"status": "ok"}),
    Example("GET /readyz", {"status": "ok", "mongodb": "up", "redis": "up"}),
    Example(
        "POST /api/auth/signup",
        {"user": ADA, "token": TOKEN},
        {"username": "ada", "password": PASSWORD, "displayName": "Ada"},
    ),
    Example(
        "POST /api/auth/login",
        {"user": ADA, "token": TOKEN},
        {"username": "ada", "password": PASSWORD},
    ),
    Example("GET /api/auth/me", ADA),
    Example("PATCH /api/auth/me", ADA, {"displayName": "Ada"}),
    Example("DELETE /api/auth/sessions"),
    Example(
        "GET /api/auth/sessions",
        [
            {
                "id": SESSION_ID,
                "createdAt": TIME,
                "lastUsedAt": TIME,
                "userAgent": "curl/8.14.1",
                "current": True,
            }
        ],
    ),
    Example(
        "POST /api/messages/send",
        MESSAGE,
        {"receiverId": "ben", "text": "Hello, Ben!", "clientId": "a-random-text-1"},
    ),
    Example("GET /api/messages/{userId}", [MESSAGE], parameters=TO_BEN | {"limit": 50}),
    Example("GET /api/messages/{userId}/search", [MESSAGE], parameters=TO_BEN | {"query": "hello"}),
    Example("GET /api/messages/{userId}/{messageId}", MESSAGE, parameters=ONE_MESSAGE),
    Example(
        "PUT /api/messages/{messageId}/reactions/{emoji}",
        MESSAGE | {"version": 2, "reactions": {THUMB: ["ada"]}},
        parameters=REACTION,
    ),
    Example(
        "DELETE /api/messages/{messageId}/reactions/{emoji}",
        MESSAGE | {"version": 3},
        parameters=REACTION,
    ),
    Example(
        "PATCH /api/messages/{messageId}",
        EDITED,
        {"text": "Hello, Ben! Lunch?"},
        parameters=THE_MESSAGE,
    ),
    Example("POST /api/messages/{userId}/read", body={"seq": 1}, parameters=TO_BEN),
    Example(
        "GET /api/conversations",
        {"items": [{"user": BEN, "conversation": "ada:ben", **STATE}], "next": None},
    ),
    Example("GET /api/users", [BEN | STATE], parameters={"query": "ben"}),
    Example("PUT /api/users/{userId}/mute", parameters=TO_BEN),
    Example("DELETE /api/users/{userId}/mute", parameters=TO_BEN),
    Example("PUT /api/users/{userId}/block", parameters=TO_BEN),
    Example("DELETE /api/users/{userId}/block", parameters=TO_BEN),
    Example(
        "DELETE /api/messages/{messageId}",
        EDITED | {"version": 5, "text": "", "deletedAt": TIME},
        parameters=THE_MESSAGE,
    ),
    Example("POST /api/auth/password", body={"current": PASSWORD, "new": NEW_PASSWORD}),
    Example("DELETE /api/auth/sessions/{sessionId}", parameters={"sessionId": SESSION_ID}),
    Example("POST /api/auth/logout"),
    Example("DELETE /api/auth/me", body={"password": NEW_PASSWORD}),
]
