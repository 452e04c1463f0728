"""Notebook 14: the service for those who run it, call it, or build on it; two processes of one service, and two services."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from chatlab import client
from chatlab.cache.keys import Keys
from chatlab.client import Json
from chatlab.errors import Conflict
from chatlab.lab.checks import CheckResult, UnusableAnswer, check, correct, not_yet
from chatlab.lab.claims import holds_if
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.tables import Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import PASSWORD, User
from chatlab.run.child import ChildService
from chatlab.run.working_copy import shipped
from chatlab.settings import PREFIX, Settings, SettingsError, load_settings

GRACE = 1.0  # seconds: a write to the cache that comes later after its save began is not made
BACK = 20.0  # seconds for what comes by itself
ENGINES = {
    "mongo_url",
    "redis_url",
    "data_dir",
    "mongod",
    "redis_server",
}  # the settings that say which are used
COMPOSE = shipped().parent / "docker-compose.yml"
NOTHING, LATER, AT_ONE = "nothing", "nothing, until he reads", "newMessage, as if both were at one"


async def until(found: Callable[[], Any]) -> bool:
    """Look until it is so, for a while at most."""
    return await poll_until(found, BACK)


# --- two processes of one service ----------------------------------------------------------------------------------------------


async def at(url: str, person: User, seen_by: User) -> client.ChatClient:
    """The same user with the same token at the process with this URL, connected; when the other process knows that, too."""
    there = client.ChatClient(url, person.user, person.token)
    await there.connect()

    async def known() -> bool:
        users: list[Json] = (await seen_by.http.get("/api/users")).json()
        return any(user["id"] == person.id and user["online"] for user in users)

    await until(known)
    return there


async def what_is_heard(there: client.ChatClient, trace: Trace) -> str:
    """What came of this send at the other process, in the words of the prediction."""

    def heard() -> bool:
        return any(
            heard.event == "newMessage" and heard.payload == trace.message
            for heard in there.received
        )

    if await until(heard):
        return AT_ONE
    return (
        LATER
        if trace.message in (await there.read(trace.message["senderId"])).messages
        else NOTHING
    )


async def changed_here_read_there(lab: Lab, alice: User, url: str, tries: int = 3) -> Rows:
    """Each kind of change at the first process, and the read at the one with this URL right after it.

    Once more if the machine was so slow that the cache took a write for a late one.
    """
    began = time.monotonic()
    partner = await lab.new_user("carol")
    there = client.ChatClient(url, partner.user, partner.token)
    rows = [
        await _read_there(there, alice, what, message)
        async for what, message in _changes(alice, partner.id)
    ]
    await there.close()
    if time.monotonic() - began > GRACE and tries > 1:
        return await changed_here_read_there(lab, alice, url, tries - 1)
    return Rows(
        ("done at the first process", "the next read at the second shows it", "X-Cache"), rows
    )


async def _changes(alice: User, partner: str) -> AsyncIterator[tuple[str, Json]]:
    """A message as it is after each change."""
    message = (await alice.send_by_http(partner, "as it was")).message
    path = f"/api/messages/{message['_id']}"
    yield "a send", message
    yield "an edit", (await alice.http.patch(path, json={"text": "as it is"})).json()
    yield "a reaction", (await alice.http.put(f"{path}/reactions/👍")).json()


async def _read_there(
    there: client.ChatClient, alice: User, what: str, wanted: Json
) -> tuple[str, ...]:
    reading = await there.read(alice.id)
    return what, "yes" if reading.messages == [wanted] else "no", reading.cache


# --- what it says of itself ----------------------------------------------------------------------------------------------------


def operation(api: Json, method: str, path: str) -> Rows:
    """An operation of an OpenAPI document: what it is for, what it asks, how it may answer."""
    told = api["paths"][path][method]
    body = told["requestBody"]["content"]["application/json"]["schema"]
    wanted = {
        name: "needed" if name in body["required"] else "may be left out"
        for name in body["properties"]
    }
    return Rows(
        (f"{method.upper()} {path}", told["summary"]),
        [(f"body: {name}", need) for name, need in wanted.items()]
        + [
            (f"answer: {status}", answer["description"])
            for status, answer in told["responses"].items()
        ],
    )


def compose() -> Rows:
    """The services of docker-compose.yml: their images, what starts them, and the ports they have on this machine."""
    if not COMPOSE.exists():
        raise PremiseGone("docker-compose.yml is in the repository, which is not on this machine.")
    text = COMPOSE.read_text(encoding="utf-8")
    services = re.split(
        r"^volumes:", text.partition("\nservices:\n")[2], maxsplit=1, flags=re.MULTILINE
    )[0]
    parts = re.findall(r"^  (\w+):\n(.*?)(?=^  \w|\Z)", services, re.MULTILINE | re.DOTALL)
    return Rows(
        ("service", "image", "profile", "port here"),
        [(name, *(_said(part, what) for what in SAID)) for name, part in parts],
    )


SAID = (r"^    image: (\S+)", r"^    profiles: \[(\w+)\]", r'^    ports: \["(\S+)"\]')


def _said(part: str, what: str) -> str:
    found = re.search(what, part, re.MULTILINE)
    return found[1] if found else "built from this repository" if "image" in what else "-"


# --- exercise 1: a second, isolated service ------------------------------------------------------------------------------------


@check
async def isolated(lab: Lab, answer: Any) -> CheckResult:
    """Starts a second service with these settings changed, has the same names and a message at both, and looks for what they share."""
    settings = _changed(lab, answer)
    databases = lab.mongo.client.list_database_names()
    if settings.database in databases and settings.database != lab.settings.database:
        return not_yet(
            f"MongoDB has a database {settings.database} already: somebody else's. Choose a name that nobody has."
        )
    try:
        async with _second(settings) as url:
            return await _compared(lab, url, settings)
    finally:
        if settings.database not in databases:
            lab.mongo.client.drop_database(settings.database)
        if settings.key_prefix != lab.settings.key_prefix:
            _delete_claim(lab, settings)


def _changed(lab: Lab, answer: Any) -> Settings:
    """The settings of this session with the learner's changes. Raises UnusableAnswer, in the words that the service would use."""
    if not isinstance(answer, dict):
        raise UnusableAnswer('The answer is a dict of settings, such as {"cache_ttl": 5}.')
    unknown = [name for name in answer if name not in Settings.model_fields]
    if unknown:
        raise UnusableAnswer(
            f"There is no setting {unknown[0]!r}. Settings.model_fields has them all: database, port, key_prefix, cache_ttl ..."
        )
    if elsewhere := sorted(ENGINES & set(answer)):
        raise UnusableAnswer(
            f"With another {elsewhere[0]} it would have engines of its own. Here both are to share one MongoDB and one Redis."
        )
    try:
        return load_settings(**lab.settings.model_dump() | answer | {"port": 0})
    except SettingsError as wrong:
        raise UnusableAnswer(f"This is refused. {wrong}") from None


@contextlib.asynccontextmanager
async def _second(settings: Settings) -> AsyncIterator[str]:
    """The URL of a service with these settings."""
    service = await asyncio.to_thread(ChildService, settings, flow=False)
    try:
        yield service.url
    finally:
        os.kill(service.pid, signal.SIGKILL)  # nothing of it is to be kept
        await asyncio.to_thread(service.stop)


async def _compared(lab: Lab, url: str, settings: Settings) -> CheckResult:
    """Two people of the same names at both services; a message at each of them."""
    erin, fred = await lab.new_user("erin"), await lab.new_user("fred")
    try:
        erin2, fred2 = [
            await client.ChatClient.sign_up(url, user.id, PASSWORD) for user in (erin, fred)
        ]
    except Conflict:
        return not_yet(
            "Erin signs up at this service, then at the second one: the name is taken there. Both have the same users, "
            f"and so the same messages, in MongoDB's database {settings.database}."
        )
    try:
        await fred2.connect()
        await erin.send_by_http(fred.id, "only here")
        read = await fred2.read(erin.id)
        if read.cache == "bypass":
            return not_yet(
                "The second service found the keys of the first one in Redis, under the names that it would use itself. So it does "
                "without Redis, and its log says so. What stands before the name of each key?"
            )
        await erin2.send_by_http(fred.id, "only there")
        heard = await until(lambda: any(heard.event == "newMessage" for heard in fred2.received))
        back, shared = (
            (await fred.read(erin.id)).messages,
            _keys(lab, lab.settings) & _keys(lab, settings),
        )
    finally:
        await asyncio.gather(erin2.close(), fred2.close())
    if not heard or shared or [message["text"] for message in back] != ["only here"]:
        return not_yet(
            f"Read here after a send at each: {len(back)}. Keys that both use: {len(shared)}. ReceivedEvent there: {heard}."
        )
    return correct(
        "Erin and Fred exist at both. What was sent here is not there, what was sent there is not here; no key is used by both."
    )


def _delete_claim(lab: Lab, settings: Settings) -> None:
    """Let another service use the keys of the second one, which was killed."""
    with lab.redis.client() as redis:
        redis.delete(Keys(settings.key_prefix).claim)


def _keys(lab: Lab, settings: Settings) -> set[str]:
    """The keys of messages and conversations of a service on these engines, by their full names."""
    return set(lab.redis.scan_iter(f"{settings.key_prefix}message*", count=1000))


# --- exercise 2: the metric of a hit -------------------------------------------------------------------------------------------

HITS = 7


async def metrics(person: client.ChatClient) -> dict[str, float]:
    """What the process that this person speaks to counts: each line of /metrics, and its value."""
    lines = (await person.http.get("/metrics")).text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


@check
async def counts_hits(lab: Lab, answer: Any) -> CheckResult:
    """Reads the metric, has a known number of hits, a bypass and a miss, and reads it again."""
    erin = await lab.new_user("erin")
    before = await metrics(erin)
    if answer not in before:
        shape = next(name for name in before if name.startswith("chatlab_sends_total"))
        return not_yet(
            f"/metrics has no such line. A line has a name, and most have labels in braces; this is one: {shape}"
        )
    await erin.send_by_http(erin.id, "a note to myself")
    outcomes = [(await erin.read(erin.id)).cache for _ in range(HITS)]
    outcomes += [(await erin.read(erin.id, fresh=True)).cache, (await erin.read("observer")).cache]
    grown = (await metrics(erin))[answer] - before[answer]
    hits = outcomes.count("hit")
    if grown == hits:
        return correct(f"{hits} hits, {len(outcomes) - hits} other reads: it grew by {grown:g}.")
    return not_yet(
        f"There were {hits} hits of readers and {len(outcomes) - hits} other reads, and this grew by {grown:g}. What does it count?"
    )


# --- exercise 3: a setting that is refused -------------------------------------------------------------------------------------


@check
async def refused(lab: Lab, answer: Any) -> CheckResult:
    """Starts the service with this variable, and looks whether it starts."""
    name, equals, value = answer.partition("=") if isinstance(answer, str) else ("", "", "")
    if not (equals and re.fullmatch(r"\w+", name)):
        return not_yet(
            'The answer is a variable and its value, as a shell writes them: "NAME=value".'
        )
    started, said = await asyncio.to_thread(_tried_to_start, lab.settings, name, value)
    if started:
        return not_yet(_why_it_started(name))
    if name not in said:
        return not_yet(f"It did not start, but does not say that it was for {name}: {said}")
    return correct(f"The service did not start, and said why. {said}")


def _why_it_started(name: str) -> str:
    if name.upper().removeprefix(PREFIX).lower() in Settings.model_fields and name.startswith(
        PREFIX
    ):
        return f"With this the service starts: the value is allowed. What is not? `chatlab serve --help` tells of {name}."
    return f"With this the service starts, for {name} is none of its variables: theirs begin with {PREFIX}."


def _tried_to_start(settings: Settings, name: str, value: str) -> tuple[bool, str]:
    """Has it said its URL; and what else did it say? It ends by itself: its input has ended before it began."""
    given = settings.model_copy(update={"port": 0}).model_dump(mode="json", exclude_none=True)
    plain = {
        key: known for key, known in os.environ.items() if key != "FORCE_COLOR"
    }  # a notebook's kernel asks for colours
    environment = (
        plain
        | {f"{PREFIX}{key.upper()}": str(known) for key, known in given.items()}
        | {name: value}
    )
    command = [sys.executable, "-m", "chatlab", "serve", "--attached"]
    done = subprocess.run(  # noqa: S603
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BACK,
        check=False,
    )
    return bool(done.stdout.strip()), " ".join(done.stderr.split())


# --- what holds ----------------------------------------------------------------------------------------------------------------


def promises(heard: str, changes: Rows, refusal: SettingsError) -> Rows:
    """What the contract promises to developers, held against this notebook."""
    seen = all(row[1] == "yes" for row in changes.rows)
    return Rows(
        ("the contract says", "measured here", "verdict"),
        [
            (
                "a newMessage reaches every socket of both participants",
                f"at another process: {heard}",
                holds_if(heard == AT_ONE),
            ),
            (
                "after a send or a change every later read shows it, through any process",
                ", ".join(row[1] for row in changes.rows),
                holds_if(seen),
            ),
            (
                "a wrong value names the variable",
                str(refusal).partition("=")[0],
                holds_if("CHATLAB_CACHE_TTL" in str(refusal)),
            ),
        ],
    )
