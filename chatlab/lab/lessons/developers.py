"""Notebook 14: checks of a second, isolated service, and of clients that count and catch up."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx

from chatlab import client
from chatlab.cache.keys import Keys
from chatlab.errors import Conflict
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    await_answer,
    call_answer,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import holds_if
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.tables import Rows
from chatlab.lab.user import PASSWORD, User
from chatlab.run.child import ChildService
from chatlab.run.working_copy import shipped
from chatlab.settings import Settings, SettingsError, load_settings

EVENT_S = 60.0  # for an event to arrive
SERVERS = {
    "mongo_url",
    "redis_url",
    "data_dir",
    "mongod",
    "redis_server",
}  # settings of both stores
COMPOSE = shipped().parent / "docker-compose.yml"
ANSWERS = "nothing", "nothing, until he reads", "newMessage"  # the prediction


# --- docker-compose.yml ---------------------------------------------------------------------------


def compose() -> Rows:
    """Return the services of docker-compose.yml: image, profile, and port on this machine."""
    if not COMPOSE.exists():
        raise PremiseGone("docker-compose.yml is in the repository, which is not on this machine.")
    text = COMPOSE.read_text(encoding="utf-8")
    services = re.split(
        r"^volumes:", text.partition("\nservices:\n")[2], maxsplit=1, flags=re.MULTILINE
    )[0]
    parts = re.findall(r"^  (\w+):\n(.*?)(?=^  \w|\Z)", services, re.MULTILINE | re.DOTALL)
    return Rows(
        ("service", "image", "profile", "port here"),
        [(name, *(_value(part, field) for field in FIELDS)) for name, part in parts],
    )


FIELDS = (r"^    image: (\S+)", r"^    profiles: \[(\w+)\]", r'^    ports: \["(\S+)"\]')


def _value(part: str, field: str) -> str:
    found = re.search(field, part, re.MULTILINE)
    return found[1] if found else "built from this repository" if "image" in field else "-"


# --- exercise 1: a second, isolated service -------------------------------------------------------


@check
async def isolated(lab: Lab, answer: Any) -> CheckResult:
    """Start a service with these settings changed, and look for what both services share."""
    settings = _changed(lab, answer)
    databases = lab.mongo.client.list_database_names()
    if settings.database in databases and settings.database != lab.settings.database:
        return not_yet(f"MongoDB already has a database {settings.database}. Choose another name.")
    try:
        async with _second(settings) as url:
            return await _compare(lab, url, settings)
    finally:
        if settings.database not in databases:
            lab.mongo.client.drop_database(settings.database)
        if settings.key_prefix != lab.settings.key_prefix:
            lab.redis.delete(Keys(settings.key_prefix).claim)  # its owner was killed


def _changed(lab: Lab, answer: Any) -> Settings:
    """Return the settings of this session with the learner's changes."""
    if not isinstance(answer, dict):
        raise UnusableAnswer('The answer is a dict of settings, such as {"cache_ttl": 5}.')
    unknown = [name for name in answer if name not in Settings.model_fields]
    if unknown:
        raise UnusableAnswer(
            f"There is no setting {unknown[0]!r}. In Python a setting has its name in lower case and"
            " without CHATLAB_: cache_ttl, not CHATLAB_CACHE_TTL."
        )
    if elsewhere := sorted(SERVERS & set(answer)):
        raise UnusableAnswer(
            f"With another {elsewhere[0]} it would use other servers. Here both services must share"
            " one MongoDB and one Redis."
        )
    try:
        return load_settings(**lab.settings.model_dump() | answer | {"port": 0})
    except SettingsError as error:
        raise UnusableAnswer(f"The service rejects this. {error}") from None


@contextlib.asynccontextmanager
async def _second(settings: Settings) -> AsyncIterator[str]:
    """Run a service with these settings. Yield its URL."""
    service = await asyncio.to_thread(ChildService, settings, flow=False)
    try:
        yield service.url
    finally:
        os.kill(service.pid, signal.SIGKILL)  # nothing of it has to be kept
        await asyncio.to_thread(service.stop)


async def _compare(lab: Lab, url: str, settings: Settings) -> CheckResult:
    """Sign up two users with the same names at both services, and send a message at each."""
    erin, fred = await lab.new_user("erin"), await lab.new_user("fred")
    try:
        erin2, fred2 = [
            await client.ChatClient.sign_up(url, user.id, PASSWORD) for user in (erin, fred)
        ]
    except Conflict:
        return not_yet(
            "Erin signs up at this service, and then at the second one: there the name is taken. Both"
            f" have the same users and messages, in MongoDB's database {settings.database}."
        )
    try:
        await fred2.connect()
        await erin.send_by_http(fred.id, "only here")
        if (await fred2.read(erin.id)).cache == "bypass":
            return not_yet(
                "In Redis the second service found keys of the first one, under the names that it"
                " would use itself. So it works without Redis, as its log says. What comes before the"
                " name of each key?"
            )
        await erin2.send_by_http(fred.id, "only there")
        heard = await poll_until(
            lambda: any(event.event == "newMessage" for event in fred2.received), EVENT_S
        )
        back = [message["text"] for message in (await fred.read(erin.id)).messages]
        shared = _keys(lab, lab.settings) & _keys(lab, settings)
    finally:
        await asyncio.gather(erin2.close(), fred2.close())
    if not heard or shared or back != ["only here"]:
        return not_yet(
            f"After a send at each service, this one has {len(back)} messages. Keys that both use:"
            f" {len(shared)}. An event arrived at the second service: {heard}."
        )
    return correct(
        "Both services have an Erin and a Fred. Each has its own message only, and no key is used by"
        " both."
    )


def _keys(lab: Lab, settings: Settings) -> set[str]:
    return set(lab.redis.scan_iter(f"{settings.key_prefix}message*", count=1000))


# --- exercise 2: read a metric --------------------------------------------------------------------

HITS, FRESH = 7, 3


@check
async def counts_reads(lab: Lab, answer: Any) -> CheckResult:
    """Check a function that reads a counter: before and after a known number of reads."""
    erin = await lab.new_user("erin")
    await erin.send_by_http(erin.id, "A note to myself")
    before = await _metrics(erin)
    seen = [(await erin.read(erin.id)).cache for _ in range(HITS)]
    seen += [(await erin.read(erin.id, fresh=True)).cache for _ in range(FRESH)]
    after = await _metrics(erin)
    for cache in ("hit", "bypass", "miss"):
        grown = _count(answer, after, cache) - _count(answer, before, cache)
        if grown != seen.count(cache):
            return not_yet(
                f"There were {len(seen)} reads, {seen.count(cache)} of them with X-Cache {cache}. Your"
                f" number grew by {grown:g}."
            )
    return correct(f"{seen.count('hit')} hits and {seen.count('bypass')} reads past the cache.")


async def _metrics(user: User) -> str:
    return (await user.http.get("/metrics")).text


def _count(answer: Any, metrics: str, cache: str) -> float:
    returned = call_answer(answer, metrics, cache)
    if not is_number(returned):
        raise UnusableAnswer(
            f"For {cache!r} your function returned {returned!r}. It must return a number."
        )
    return float(returned)


# --- exercise 3: catch up -------------------------------------------------------------------------

MESSAGES, PAGE = 25, 10


class _Watched(httpx.AsyncHTTPTransport):
    """Records the requests. After the first reply, `meanwhile` is called."""

    def __init__(self, meanwhile: Any) -> None:
        super().__init__()
        self.requests: list[httpx.Request] = []
        self._meanwhile = meanwhile

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = await super().handle_async_request(request)
        if len(self.requests) == 1:
            await self._meanwhile()
        return reply


@check
async def catches_up(lab: Lab, answer: Any) -> CheckResult:
    """Check a client that was away: what it returns, page by page, while messages arrive."""
    erin, fred = await lab.new_user("erin"), await lab.new_user("fred")
    for number in range(MESSAGES):
        await erin.send_by_http(fred.id, f"Message {number}")
    for last_seq in (0, 7, MESSAGES + 2):  # two more have arrived by then
        await _require_all(erin, fred, answer, last_seq)
    return correct(
        f"It returned all messages of {MESSAGES} and more, in their order, {PAGE} at a time, and also"
        " the one that arrived meanwhile."
    )


async def _require_all(erin: User, fred: User, answer: Any, last_seq: int) -> None:
    text = f"Meanwhile {secrets.token_hex(4)}"
    network = _Watched(lambda: erin.send_by_http(fred.id, text))
    headers = {"authorization": f"Bearer {fred.token}"}
    known = [m["seq"] for m in (await fred.read(erin.id)).messages if m["seq"] > last_seq]
    async with httpx.AsyncClient(transport=network, base_url=fred.url, headers=headers) as http:
        try:
            returned = await await_answer(answer, http, erin.id, last_seq)
        except UnusableAnswer as error:
            raise UnusableAnswer(f"After seq {last_seq}: {error}") from None
    seqs = _seqs(returned)
    expected = [*known, *range(1 + max([last_seq, *known]), 1 + max([last_seq, *seqs, *known]))]
    if seqs != expected:
        raise UnusableAnswer(
            f"After seq {last_seq} there were {len(known)} messages, and another one came after your"
            f" first request. You returned {len(seqs)}, with the seqs {_short(seqs)}."
        )
    if any(
        int(request.url.params.get("limit", "0")) not in range(1, PAGE + 1)
        for request in network.requests
    ):
        raise UnusableAnswer(
            f"A request had no `limit` of at most {PAGE}. A client that was away for a month would get"
            " everything in one reply."
        )
    if known and text not in [message["text"] for message in returned]:
        raise UnusableAnswer(
            "A message came after your first request, and it is missing. Ask until a reply is empty."
        )


def _seqs(returned: Any) -> list[int]:
    if not isinstance(returned, list) or not all(
        isinstance(one, dict) and "seq" in one for one in returned
    ):
        raise UnusableAnswer(
            f"Your function returned {returned!r}. It must return a list of messages."
        )
    return [one["seq"] for one in returned]


def _short(seqs: Sequence[int]) -> str:
    if len(seqs) <= 4:
        return str(list(seqs))
    return f"[{seqs[0]}, {seqs[1]} ... {seqs[-1]}]"


# --- what holds -----------------------------------------------------------------------------------


def promises(heard: str, shown: Sequence[bool], refusal: SettingsError) -> Rows:
    """Compare promises of the API with what this notebook has seen."""
    return Rows(
        ("what the documentation promises", "measured here", "verdict"),
        [
            (
                "newMessage reaches every connected socket of both users, in any process",
                f"in another process: {heard}",
                holds_if(heard == ANSWERS[2]),
            ),
            (
                "a read that begins after a send or a change shows it, in any process",
                f"{sum(shown)} of {len(shown)} changes",
                holds_if(all(shown)),
            ),
            (
                "a wrong setting is named",
                str(refusal).partition("=")[0],
                holds_if("CHATLAB_CACHE_TTL" in str(refusal)),
            ),
        ],
    )
