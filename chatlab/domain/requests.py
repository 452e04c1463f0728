"""Validate what clients send, by the same models for HTTP and Socket.IO.

Unknown fields are ignored, so a `senderId` in a payload has no effect. An error names the fields
that are wrong and what is allowed. It never contains the input.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

import emoji as emojis
from bson import ObjectId
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from chatlab.domain.emoji_spelling import one_spelling
from chatlab.domain.ids import USER_ID
from chatlab.domain.passwords import MAX_LENGTH, MIN_LENGTH
from chatlab.domain.visible_text import clean_name, has_visible
from chatlab.errors import Invalid
from chatlab.settings import CacheMode, CacheTtl

SESSION_ID = "^[0-9a-f]{64}$"
USUAL_PAGE = 50  # rows in a page of a list
MAX_PAGE = 200
# A time in milliseconds, which fits into a date, and a conversation.
CURSOR = r"[0-9]{1,14}\.[a-z0-9_-]{1,32}:[a-z0-9_-]{1,32}"
MAX_SAFE_INTEGER = 2**53 - 1  # JavaScript cannot represent larger integers exactly


def _message_id(text: str) -> str:
    if not ObjectId.is_valid(text):
        raise ValueError("should be a message's _id, 24 hexadecimal digits")
    return text


def _query(text: str) -> str:
    if "\0" in text:  # MongoDB has no pattern with it
        raise ValueError("should not contain the character U+0000")
    return text


def _session_id(text: str) -> str:
    if not re.fullmatch(SESSION_ID, text):
        raise ValueError("should be the id of a session, 64 hexadecimal digits")
    return text


def _cursor(text: str) -> str:
    if not re.fullmatch(CURSOR, text):
        raise ValueError("should be the `next` of a page of this list")
    return text


def _emoji(text: str) -> str:
    emoji = one_spelling(text)
    if not emojis.is_emoji(emoji):
        raise ValueError("should be one emoji")
    return emoji


def _visible(text: str) -> str:
    if not has_visible(text):
        raise ValueError("should have at least 1 character that can be seen")
    return text


def _name(text: str) -> str:
    return _visible(clean_name(text))


Handle = Annotated[str, StringConstraints(pattern=USER_ID)]
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=4000),
    AfterValidator(_visible),
]
MessageId = Annotated[
    str,
    StringConstraints(min_length=24, max_length=24),
    AfterValidator(_message_id),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{24}$"}),
]
SessionId = Annotated[
    str,
    StringConstraints(min_length=64, max_length=64),
    AfterValidator(_session_id),
    WithJsonSchema({"type": "string", "pattern": SESSION_ID}),
]
Emoji = Annotated[
    str,
    StringConstraints(max_length=32),
    AfterValidator(_emoji),
    Field(
        description="one emoji, as listed by Unicode, with or without variation selectors",
        examples=["\N{THUMBS UP SIGN}"],
    ),
]
Password = Annotated[str, StringConstraints(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
GivenPassword = Annotated[str, StringConstraints(max_length=MAX_LENGTH)]  # to be compared
DisplayName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64),
    AfterValidator(_name),
    Field(description="invisible characters, such as those that change a direction, are removed"),
]
DeviceId = Annotated[str, StringConstraints(min_length=16, max_length=64)]
ClientId = Annotated[str, StringConstraints(max_length=64)]
Seq = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER)]
PageLimit = Annotated[int, Field(ge=1, le=MAX_PAGE)]


class Request(BaseModel):
    """Base of all requests. Strict: `"1"` is not accepted as a number."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Parse the JSON body of an HTTP request. Raises Invalid."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as failure:
            raise _from_pydantic(failure) from None

    @classmethod
    def from_fields(cls, /, **fields: Any) -> Self:
        """Validate keyword arguments, for example path parameters. Raises Invalid.

        `cls` is positional-only, so that a client may send a field of that name.
        """
        return cls.from_payload(fields)

    @classmethod
    def from_payload(cls, payload: object) -> Self:
        """Validate the decoded payload of a socket event. Raises Invalid."""
        try:
            return cls.model_validate(payload)
        except ValidationError as failure:
            raise _from_pydantic(failure) from None


class SignUp(Request):
    """`deviceId`: a random text that the client has chosen once and keeps."""

    username: Handle
    password: Password
    displayName: DisplayName | None = None
    deviceId: DeviceId | None = None


class LogIn(Request):
    """Accepts any strings: a name that is not a valid user id matches no user."""

    username: Annotated[str, StringConstraints(max_length=256)]
    password: GivenPassword
    deviceId: DeviceId | None = None


class Profile(Request):
    displayName: DisplayName


class ChangePassword(Request):
    current: GivenPassword
    new: Password


class DeleteAccount(Request):
    password: GivenPassword


class Send(Request):
    receiverId: Handle
    text: Text
    clientId: ClientId | None = None
    replyTo: Annotated[
        MessageId | None, Field(description="the `_id` of an earlier message of the conversation")
    ] = None


class NewText(Request):
    text: Text


class Target(Request):
    messageId: MessageId


class Edit(Target):
    text: Text


class React(Target):
    emoji: Emoji


class Partner(Request):
    userId: Handle


class ReadUpTo(Request):
    seq: Annotated[Seq, Field(description="not above that of the newest message")]


class MarkRead(Partner):
    seq: Seq


class Typing(Request):
    receiverId: Handle
    typing: bool


class LabSettings(Request):
    """Settings to change at `/lab`. An absent field keeps its value. `cacheTtl` is in seconds."""

    cacheTtl: CacheTtl | None = None
    cacheMode: Annotated[CacheMode, WithJsonSchema({"enum": list(CacheMode)})] | None = None


class Page(Request):
    """A range of a conversation. `before` and `after` are exclusive seqs.

    With `after`, `limit` selects the oldest messages of the range, otherwise the newest ones.
    """

    model_config = ConfigDict(strict=False)  # query parameters are text

    limit: Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER)] | None = None
    before: Seq | None = None
    after: Seq | None = None


class ConversationsPage(Request):
    """A page of the list of conversations."""

    model_config = ConfigDict(strict=False)

    limit: PageLimit = USUAL_PAGE
    before: (
        Annotated[
            str,
            AfterValidator(_cursor),
            Field(
                description="`next` of the page before",
                json_schema_extra={"pattern": f"^{CURSOR}$"},
            ),
        ]
        | None
    ) = None


class UsersPage(Request):
    """A page of the list of users. `query`: the beginning of an id or of a display name.

    Accents and capitals make no difference. A page with fewer users than `limit` is the last one.
    """

    model_config = ConfigDict(strict=False)

    query: Annotated[str, StringConstraints(strip_whitespace=True, max_length=64)] = ""
    limit: PageLimit = USUAL_PAGE
    after: Annotated[Handle, Field(description="the last user id of the page before")] | None = None


class Search(Request):
    """A search in a conversation: a page of at most `limit` messages, below the seq `before`."""

    model_config = ConfigDict(strict=False)  # query parameters are text

    query: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
        AfterValidator(_query),
        Field(description="any part of a text; capitals and small letters are the same"),
    ]
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    before: Seq | None = None


def _from_pydantic(failure: ValidationError) -> Invalid:
    return invalid(failure.errors(include_url=False, include_input=False, include_context=False))


def invalid(errors: Sequence[Any]) -> Invalid:
    """Return an error that names up to five wrong fields and what is allowed in each.

    `errors` is in the format of pydantic.
    """
    return Invalid("; ".join(_explain(one["loc"], one["type"], one["msg"]) for one in errors[:5]))


def _explain(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if kind == "json_invalid":  # pydantic's message quotes the input
        return "the body should be valid JSON"
    if kind == "model_type":  # pydantic words it differently for JSON and for Python objects
        message = "should be an object"
    if kind == "string_pattern_mismatch":
        message = "should be 1 to 32 of a-z, 0-9, _ and -, beginning with a letter or a digit"
    field = ".".join(str(part) for part in location) or "the payload"
    return f"{field}: {message.removeprefix('Value error, ')}"
