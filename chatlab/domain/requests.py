"""What may be asked, at either door: one shape and one check for both. A wrong input never gets further than this module.

Unknown fields are ignored, so a `senderId` in a payload has no effect. What is wrong is named; the input is never repeated.
"""

from typing import Annotated, Any, Self

import emoji as emojis
from bson import ObjectId
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from chatlab.domain.ids import USER_ID
from chatlab.errors import Invalid
from chatlab.settings import CacheMode, CacheTtl

LARGEST = 2**53 - 1  # the largest integer that JSON readers of every language keep exactly


def _message_id(text: str) -> str:
    if not ObjectId.is_valid(text):
        raise ValueError("should be a message's _id, 24 hexadecimal digits")
    return text


def _emoji(text: str) -> str:
    if not emojis.is_emoji(text):
        raise ValueError("should be one emoji")
    return text


Handle = Annotated[str, StringConstraints(pattern=USER_ID)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
MessageId = Annotated[str, StringConstraints(min_length=24, max_length=24), AfterValidator(_message_id)]
Emoji = Annotated[str, StringConstraints(max_length=32), AfterValidator(_emoji)]
Password = Annotated[str, StringConstraints(min_length=8, max_length=256)]
DisplayName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
ClientId = Annotated[str, StringConstraints(max_length=64)]
Seq = Annotated[int, Field(ge=0, le=LARGEST)]


class Request(BaseModel):
    """Strict: nothing is turned from one type into another."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The request in a JSON body. Raises Invalid."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as wrong:
            raise _invalid(wrong) from None

    @classmethod
    def from_fields(cls, /, **fields: Any) -> Self:
        """The request of these fields, whatever their names. Raises Invalid."""
        return cls.from_payload(fields)

    @classmethod
    def from_payload(cls, payload: object) -> Self:
        """The request in a decoded socket payload. Raises Invalid."""
        try:
            return cls.model_validate(payload)
        except ValidationError as wrong:
            raise _invalid(wrong) from None


class SignUp(Request):
    username: Handle
    password: Password
    displayName: DisplayName | None = None


class LogIn(Request):
    """Any strings: what cannot be a user simply does not match one."""

    username: Annotated[str, StringConstraints(max_length=256)]
    password: Annotated[str, StringConstraints(max_length=256)]


class Send(Request):
    receiverId: Handle
    text: Text
    clientId: ClientId | None = None


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
    seq: Seq


class MarkRead(Partner):
    seq: Seq


class Typing(Request):
    receiverId: Handle
    typing: bool


class LabSettings(Request):
    """What an instructor turns; what is not named stays. `cacheTtl` in seconds."""

    cacheTtl: CacheTtl | None = None
    cacheMode: CacheMode | None = None


class Page(Request):
    """A stretch of a conversation. `before` and `after` are seqs, exclusive.

    With `after` a limited page begins just behind it; otherwise it is the newest one (below `before`).
    """

    model_config = ConfigDict(strict=False)  # a query holds text

    limit: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    before: Seq | None = None
    after: Seq | None = None


def _invalid(wrong: ValidationError) -> Invalid:
    """Names each field that is wrong and what would be right, without the input."""
    errors = wrong.errors(include_url=False, include_input=False, include_context=False)
    return Invalid("; ".join(_complaint(error["loc"], error["type"], error["msg"]) for error in errors[:5]))


def _complaint(where: tuple[int | str, ...], kind: str, message: str) -> str:
    if kind == "json_invalid":  # its message quotes positions and characters of the input
        return "the body should be valid JSON"
    if kind == "model_type":  # one wording for JSON and for a decoded payload
        message = "should be an object"
    if kind == "string_pattern_mismatch":
        message = "should be 1 to 32 of a-z, 0-9, _ and -, beginning with a letter or a digit"
    place = ".".join(str(part) for part in where) or "the payload"
    return f"{place}: {message.removeprefix('Value error, ')}"
