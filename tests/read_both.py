"""Reads of a conversation of one message, at two processes."""

import asyncio

from live import User


async def read(user: User, other: User) -> tuple[str, str]:
    """Read a conversation of one message. Return X-Cache and the text."""
    answer = await user.read(other)
    assert answer.status_code == 200, answer.text
    (message,) = answer.json()
    return answer.headers["x-cache"], message["text"]


async def read_both(alice: User, bob: User, *, text: str) -> set[str]:
    """Read at two processes, which must see this text. Return both X-Cache."""
    answers = await asyncio.gather(read(alice, bob), read(bob, alice))
    assert {seen for _, seen in answers} == {text}
    return {cache for cache, _ in answers}
