"""The scripts of `window.lua`: their names, arguments and replies.

Nothing here talks to Redis. `cache.py` sends these calls and hands the replies back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatlab.connections.resp import Command
from chatlab.domain.message import Message
from chatlab.domain.requests import Page

SOURCE = (Path(__file__).parent / "window.lua").read_text()
# Replies of `send`, `change` and `fence`; any other reply is an error.
WRITTEN = (b"window", b"fence")


def scripts_in(source: str) -> dict[str, str]:
    """Return the scripts of `window.lua` by name, each with the common block in front of it."""
    common, *blocks = source.split("-- script ")
    return {block.split(":", 1)[0]: f"{common}-- {block}" for block in blocks}


class CommonArguments(NamedTuple):
    """ARGV 1 to 4 of every script. `trusted_since` is Redis time in microseconds."""

    trusted_since: int
    window_ttl_ms: int
    grace_period_ms: int
    window_size: int


class ScriptCall(NamedTuple):
    """A script, its key and its own arguments.

    `began` (ARGV 5) is Redis time in microseconds: when the write began, or the fill token. `rest`
    is ARGV 6 and later.
    """

    script: str
    key: str
    began: int
    rest: tuple[Any, ...] = ()

    def command(self, digest: str, common: CommonArguments) -> Command:
        """Return the Redis command. `digest` is the SHA-1 by which Redis knows the script."""
        return ("EVALSHA", digest, 1, self.key, *common, self.began, *self.rest)


def send(key: str, message: Message, began: int) -> ScriptCall:
    """Add a new message to the window."""
    return ScriptCall("send", key, began, (message.seq, message.json))


def change(key: str, message: Message, began: int) -> ScriptCall:
    """Replace a changed message in the window and set the fence."""
    return ScriptCall("change", key, began, (message.seq, message.json))


def fence(key: str) -> ScriptCall:
    """Replace a window that lacks a write by a fence alone."""
    return ScriptCall("fence", key, 0)


def fill(
    key: str, token: int, messages: Sequence[bytes], first_seq: int, *, widen: bool
) -> ScriptCall:
    """Merge consecutive messages, as JSON, that were read from MongoDB after the fill token."""
    return ScriptCall("fill", key, token, (int(widen), first_seq, *messages))


def read(key: str, page: Page) -> ScriptCall:
    """Read which part of a page the window holds."""
    before = -1 if page.before is None else page.before
    after = -1 if page.after is None else page.after
    return ScriptCall("read", key, 0, (page.limit or 0, before, after))


def put_message(key: str, message: Message, began: int, ttl_ms: int) -> ScriptCall:
    """Write the cache entry of a new message."""
    return ScriptCall("message", key, began, (ttl_ms, message.json))


def put_changed_message(key: str, message: Message, began: int, ttl_ms: int) -> ScriptCall:
    """Write the cache entry of a changed message."""
    return ScriptCall("message_change", key, began, (ttl_ms, message.json))


class WindowSnapshot(NamedTuple):
    """What a window held of a page when it was read.

    `token` is the Redis time of the read, in microseconds: the fill token of the query that may
    follow. `newest` and `oldest` are seqs of the window; `newest` is -1 if there is no trusted
    window. The page is seq `lowest` to `highest`. `joined` holds the messages of the page from seq
    `oldest` on, as JSON joined by commas.
    """

    token: int
    fence: int
    newest: int
    oldest: int
    lowest: int
    highest: int
    joined: bytes

    @classmethod
    def from_reply(cls, reply: Any) -> "WindowSnapshot":
        """Return the snapshot in the replies to `read` and LRANGE.

        Raises ValueError if they have another shape.
        """
        match reply:  # six times `bytes(token)` would be 4 us slower
            case [
                [
                    bytes() as token,
                    bytes() as fence,
                    int() as newest,
                    int() as oldest,
                    int() as lowest,
                    int() as highest,
                ],
                list() as tail,
            ]:
                joined = _joined(tail, newest, oldest, lowest, highest)
                return cls(int(token), int(fence), newest, oldest, lowest, highest, joined)
            case [[bytes() as token, bytes() as fence, -1], _]:
                return cls(int(token), int(fence), -1, 0, 0, 0, b"")
        raise ValueError("Redis sent a reply of another shape than the script `read`")

    @property
    def exists(self) -> bool:
        """True if there is a trusted window with messages."""
        return self.newest >= 0

    @property
    def covers_page(self) -> bool:
        """True if the whole page is in the window, so MongoDB need not be asked."""
        return self.exists and (self.lowest >= self.oldest or self.lowest > self.highest)


def _joined(tail: list[bytes], newest: int, oldest: int, lowest: int, highest: int) -> bytes:
    """Join the messages from seq `lowest` to `highest`.

    `tail` is the end of the list; its last element is seq `newest`.

    If `tail` is the whole list, its header stands at seq `oldest` - 1 and is never taken.
    """
    index_of_seq_0 = len(tail) - newest - 1
    return b",".join(
        tail[index_of_seq_0 + max(lowest, oldest) : max(index_of_seq_0 + highest + 1, 0)]
    )


class Capacity(NamedTuple):
    """How much a fill may add to a window.

    Redis spends 1.5 us on each message of a fill, and serves no other client meanwhile.
    """

    messages: int
    json_bytes: int

    def newest_that_fit(self, messages: Sequence[Message]) -> list[bytes]:
        """Return the newest messages that fit, as JSON, oldest first."""
        fitting: list[bytes] = []
        left = self.json_bytes
        for message in reversed(messages[max(len(messages) - self.messages, 0) :]):
            left -= len(message.json) + 1
            if left < 0:
                break
            fitting.append(message.json)
        return fitting[::-1]
