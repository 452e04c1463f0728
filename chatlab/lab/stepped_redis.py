"""A redis-py client that reports each step, so that a program can be killed or overtaken there.

A step is what Redis runs without a command of another client in between: one command, one script,
or one transaction. A pipeline without a transaction is one step for each of its commands.
"""

import json
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

WORD = 36  # characters of a word that are shown

OnStep = Callable[[str], None]
OnReply = Callable[[str, Any], None]


class Killed(BaseException):
    """A program was killed before a step.

    It is no Exception, because a program that was killed does not handle its death.
    """


class SteppedRedis(Redis):
    """A client on the connections of another one.

    `before` is called with the text of each step, `after` with the text and the reply.
    """

    def __init__(
        self, redis: Redis, before: OnStep = lambda _: None, after: OnReply = lambda *_: None
    ) -> None:
        super().__init__(connection_pool=redis.connection_pool)
        self.before, self.after = before, after

    def execute_command(self, *words: Any, **options: Any) -> Any:
        text = step_text(words)
        self.before(text)
        reply = super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        self.after(text, reply)
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> "SteppedPipeline":
        return SteppedPipeline(self, transaction, shard_hint)


class SteppedPipeline(Pipeline):
    """A pipeline of a SteppedRedis."""

    def __init__(self, client: SteppedRedis, transaction: bool, shard_hint: Any) -> None:
        pool = client.connection_pool
        super().__init__(pool, client.response_callbacks, transaction, shard_hint)
        self._client, self._is_transaction = client, transaction

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = [words for words, _ in self.command_stack]
        if not (self._is_transaction or self.explicit_transaction):
            self.reset()
            return [self._client.execute_command(*words) for words in commands]
        text = "; ".join(["MULTI", *map(step_text, commands), "EXEC"])
        self._client.before(text)
        try:
            replies = super().execute(raise_on_error)
        except WatchError:
            self._client.after(text, "refused: a watched key has changed")
            raise
        self._client.after(text, replies)
        return replies

    def immediate_execute_command(self, *words: Any, **options: Any) -> Any:
        """Run WATCH, or a command that reads a watched key."""
        text = step_text(words)
        self._client.before(text)
        reply = super().immediate_execute_command(*words, **options)  # type: ignore[no-untyped-call]
        self._client.after(text, reply)
        return reply


def step_text(words: tuple[Any, ...]) -> str:
    """Return a command as one line. Long words are cut."""
    texts = [word.decode() if isinstance(word, bytes) else str(word) for word in words]
    texts = [readable(text) if text.startswith(("{", "[{")) else text for text in texts]
    if texts[0] == "EVAL":
        texts[1] = "script"
    return " ".join(text if len(text) <= WORD else f"{text[: WORD - 1]}…" for text in texts)


def readable(value: Any) -> str:
    """Return a value of Redis as a short text. Of a message, only the version and the text."""
    if value is None or value == []:
        return "nothing"
    try:
        value = json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
    except ValueError:
        return str(value)
    if isinstance(value, dict) and "text" in value:
        return " ".join(str(value[name]) for name in ("version", "text") if name in value)
    if isinstance(value, list):
        return ", ".join(readable(one) for one in value)
    return str(value)


def record_steps(redis: Redis, program: Callable[[Redis], Any]) -> list[str]:
    """Run a program with a client, and return its steps."""
    steps: list[str] = []
    program(SteppedRedis(redis, before=steps.append))
    return steps


def run_killed(redis: Redis, number: int, program: Callable[[Redis], Any]) -> bool:
    """Run a program and kill it after this many steps. Return False if it ended before."""
    steps: list[str] = []

    def before(step: str) -> None:
        if len(steps) == number:
            raise Killed
        steps.append(step)

    try:
        program(SteppedRedis(redis, before))
    except Killed:
        return True
    return False


def run_overtaken(
    redis: Redis, number: int, program: Callable[[Redis], Any], other: Callable[[], Any]
) -> None:
    """Run a program, and run `other` as a whole before the step with this number, from 0.

    `other` runs after the program if the program has fewer steps.
    """
    steps: list[str] = []

    def before(step: str) -> None:
        if len(steps) == number:
            other()
        steps.append(step)

    program(SteppedRedis(redis, before))
    if len(steps) <= number:
        other()
