"""Ordinary clients of Redis and MongoDB that wait before each command, for functions in a race.

A `Lane` calls one function in a thread of its own. In that thread the clients wait before each
command until it is the turn of the lane, and report the command and its reply.
"""

import threading
from collections.abc import Callable
from typing import Any

from pymongo import MongoClient, monitoring
from pymongo.database import Database
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from chatlab.client import Json
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.stepped_redis import SteppedRedis

STEP_TIMEOUT_S = 10.0
# Other commands, such as `hello`, belong to the driver.
MONGO_COMMANDS = {"find", "insert", "update", "delete", "findAndModify", "aggregate"}

_here = threading.local()


class Abandoned(BaseException):
    """Ends the thread of a lane that is not needed any more."""


class Lane:
    """One function in its own thread. `next_command` is the one before which it waits.

    `fails_next`: its next command to Redis raises TimeoutError instead of being sent.
    """

    def __init__(self, work: Callable[[], Any], on_reply: Callable[[str, Any], None]) -> None:
        self._work, self.on_reply = work, on_reply
        self.next_command = ""
        self.result: Any = None
        self.error: Exception | None = None
        self.is_done = self.fails_next = self._is_abandoned = False
        self._may_go, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Run to the first command, unless it has started already."""
        if self._thread.ident is None:
            self._thread.start()
            self._wait_until_it_stops()

    def step(self) -> None:
        """Let one command happen, and run to the next one."""
        self._may_go.release()
        self._wait_until_it_stops()

    def abandon(self) -> None:
        """End the thread before its next command."""
        self._is_abandoned = True
        self._may_go.release()

    def wait_for_turn(self, command: str) -> None:
        """Wait before a command. Called in the lane's own thread."""
        self.next_command = command
        self._has_stopped.release()
        self._may_go.acquire()
        if self._is_abandoned:
            raise Abandoned

    def _run(self) -> None:
        _here.lane = self
        try:
            self.result = self._work()
        except Abandoned:
            return
        except Exception as error:  # noqa: BLE001 - a learner's function may raise anything
            self.error = error
        self.is_done, self.next_command = True, ""
        self._has_stopped.release()

    def _wait_until_it_stops(self) -> None:
        if not self._has_stopped.acquire(timeout=STEP_TIMEOUT_S):
            raise PremiseGone(
                f"A function sent no command for {STEP_TIMEOUT_S:g} s, and did not end.",
                "look for an endless loop",
            )


def _lane() -> Lane | None:
    lane: Lane | None = getattr(_here, "lane", None)
    return lane


def _before(command: str) -> None:
    if lane := _lane():
        lane.wait_for_turn(command)
        if lane.fails_next:
            lane.fails_next = False
            lane.on_reply(command, "no reply: TimeoutError")
            raise RedisTimeout("Timeout reading from socket")


def _after(command: str, reply: Any) -> None:
    if lane := _lane():
        lane.on_reply(command, reply)


class _Turns(monitoring.CommandListener):
    """PyMongo calls it in the thread of the command."""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in MONGO_COMMANDS and (lane := _lane()):
            lane.wait_for_turn(_mongo_text(event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if (lane := _lane()) and event.command_name in MONGO_COMMANDS:
            lane.on_reply(lane.next_command, _mongo_reply(dict(event.reply)))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        if (lane := _lane()) and event.command_name in MONGO_COMMANDS:
            lane.on_reply(lane.next_command, event.failure.get("codeName", "failed"))


def _mongo_text(name: str, command: Json) -> str:
    updates = [command.get("update"), *(update["u"] for update in command.get("updates", ()))]
    documents = [*command.get("documents", ())]
    documents += [change.get("$set", {}) for change in updates if isinstance(change, dict)]
    first: Json = next((document for document in documents if "text" in document), {})
    seq = [f"seq {first['seq']}"] if "seq" in first else []
    text = [repr(first["text"])] if first else []
    return " ".join([name, str(command[name]), *seq, *text])


def _mongo_reply(reply: Json) -> str:
    if "cursor" in reply:
        found = reply["cursor"]["firstBatch"]
        seq = f", seq {found[0]['seq']}" if len(found) == 1 and "seq" in found[0] else ""
        return f"{len(found)} document{'' if len(found) == 1 else 's'}{seq}"
    if "writeErrors" in reply:
        return f"rejected: {reply['writeErrors'][0]['errmsg'].partition(' collection')[0]}"
    value = reply.get("value")
    return f"version {value['version']}" if isinstance(value, dict) and "version" in value else "ok"


class SteppedClients:
    """The clients of all races of a session."""

    def __init__(self, redis: Redis, mongo_url: str, database: str) -> None:
        self.redis = SteppedRedis(redis, _before, _after)
        self._client: MongoClient[Json] = MongoClient(
            mongo_url, connect=False, event_listeners=[_Turns()], w=1
        )
        self.mongo: Database[Json] = self._client[database]

    def close(self) -> None:
        self._client.close()
