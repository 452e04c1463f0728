"""Notebook 12: parts stopped and killed in the middle of the work, what goes on without them, and what is there afterwards."""

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from bson import ObjectId

from chatlab.bench.raw_http import encode_request
from chatlab.domain.ids import conversation_of
from chatlab.domain.trace import StageEvent
from chatlab.errors import ChatlabError, Conflict
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.diagram import STAGES
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.plain_text import PlainText
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.tables import Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.local.binaries import Name
from chatlab.local.data_folder import DataFolder

LABELS: dict[str, str] = {"redis": "Redis", "mongo": "MongoDB", "service": "the service"}
BACK = 20.0  # seconds for the service to notice that a part is there again
TRIES = 3
GRACE = 1.0  # seconds: a write to the cache that comes later after its save began is not made
KNOWN_FOR = 4.0  # seconds: a token that was asked for so lately is still known, and a window so young still lives


# --- what the prediction was about ---------------------------------------------------------------------------------------------


def fate(lab: Lab, trace: Trace) -> str:
    """What became of a send, in the words of the prediction."""
    return (
        "200, and it is in MongoDB" if lab.find_messages(_id=trace.id) else "200, but it is nowhere"
    )


# --- what works without a part -------------------------------------------------------------------------------------------------


class Works:
    """What works, a column for each state of the system. Shown as a table."""

    def __init__(self, lab: Lab, alice: User, bob: User) -> None:
        self._lab, self._alice, self._bob = lab, alice, bob
        self.columns: dict[str, dict[str, str]] = {}

    async def with_all(self) -> "Works":
        """The column of a day without trouble; again if the machine was so slow that the cache took a write for a late one."""
        for _ in range(TRIES):
            began = time.monotonic()
            await self._warm()
            self.columns["nothing stopped"] = await self._column(await self._read())
            if time.monotonic() - began < GRACE:
                break
        return self

    async def without(self, name: Name) -> "Works":
        """Stop an engine, try everything, start it again, and look what has become of what was tried."""
        read = await self._stopped(name)
        self.columns[f"{LABELS[name]} stopped"] = await self._column(
            read, lambda: self._mended(name)
        )
        return self

    async def _stopped(self, name: Name, tries: int = TRIES) -> str:
        """Stop it, and read what was cached just before; again if the machine was so slow that the cache's 5 s were over by then."""
        began = time.monotonic()
        await self._warm()
        await self._lab.engines.stop(name)
        read = await self._read()
        if time.monotonic() - began < KNOWN_FOR or tries == 1:
            return read
        await self._mended(name)
        return await self._stopped(name, tries - 1)

    async def _mended(self, name: Name) -> None:
        await self._lab.engines.start(name)
        await ready(self._alice)

    async def _warm(self) -> None:
        """A conversation that was just written to and read."""
        await ready(self._alice)
        await self._alice.send_by_http(self._bob.id, "All is well.")
        await self._bob.read(self._alice.id)

    async def _column(
        self, read: str, mended: Callable[[], Awaitable[None]] | None = None
    ) -> dict[str, str]:
        text = f"Can you hear me? {secrets.token_hex(4)}"
        before = len(self._lab.events)
        answer = await self._alice.http.post(
            "/api/messages/send", json={"receiverId": self._bob.id, "text": text}
        )
        column = {
            "a send": _status(answer),
            "a read": read,
            "a read with no-cache": await self._read(fresh=True),
        }
        column["/readyz"] = await self._readyz()
        if mended:
            await mended()
        return column | await self._afterwards(text, before)

    async def _afterwards(self, text: str, before: int) -> dict[str, str]:
        """When another message has been heard, everything that this one was to bring has come, or never will."""
        last = (await self._alice.send_by_http(self._bob.id, f"After {text}")).message
        heard = await poll_until(lambda: last["text"] in _heard(self._bob), BACK)
        await self._lab.events.trace_events(last["_id"])
        stages = _way_of_the_first(list(self._lab.events)[before:])
        stored = len(self._lab.find_messages(text=text))
        count = self._lab.mongo.messages.count_documents(
            {"conversation": conversation_of(self._alice.id, self._bob.id)}
        )
        return {
            "boxes the send passed": "all 7"
            if stages == STAGES
            else f"not {', '.join(stage for stage in STAGES if stage not in stages)}",
            "newMessage to Bob": "yes" if heard and text in _heard(self._bob) else "no",
            "in MongoDB afterwards": "yes"
            if stored == 1
            else "no"
            if stored == 0
            else f"{stored} times",
            "the next send": "200, no gap in seq"
            if last["seq"] == count
            else f"200, seq {last['seq']} of {count} messages",
        }

    async def _read(self, *, fresh: bool = False) -> str:
        headers = {"cache-control": "no-cache"} if fresh else {}
        return _status(await self._bob.http.get(f"/api/messages/{self._alice.id}", headers=headers))

    async def _readyz(self) -> str:
        answer = await self._alice.http.get("/readyz")
        return f"{answer.status_code}, {answer.json()['status']}"

    def __repr__(self) -> str:
        return repr(side_by_side(self.columns))

    def _repr_html_(self) -> str:
        return side_by_side(self.columns)._repr_html_()


def side_by_side(columns: dict[str, dict[str, str]]) -> Rows:
    """Columns as a table; the first one says which rows there are."""
    rows = next(iter(columns.values()), {})
    return Rows(
        ("", *columns), [(row, *(column[row] for column in columns.values())) for row in rows]
    )


def _status(answer: httpx.Response) -> str:
    if answer.is_error:
        wait = answer.headers.get("retry-after")
        return f"{answer.status_code} {answer.json()['code']}" + (
            f", Retry-After: {wait}" if wait else ""
        )
    return ", ".join([str(answer.status_code), *filter(None, [answer.headers.get("x-cache")])])


def _way_of_the_first(events: list[StageEvent]) -> tuple[str, ...]:
    """The boxes of the first send among these events."""
    trace = next((event["trace"] for event in events if event["stage"] == "create"), None)
    return tuple(event["stage"] for event in events if event["trace"] == trace)


def _heard(person: User) -> list[str]:
    return [heard.payload["text"] for heard in person.received if heard.event == "newMessage"]


async def ready(person: User) -> None:
    """Wait until the service says that every part is there. TimeoutError, with what it says instead, if that does not come."""
    deadline = time.monotonic() + BACK
    while (said := (await person.http.get("/readyz")).json())["status"] != "ok":
        if time.monotonic() > deadline:
            raise TimeoutError(
                ", ".join(f"{part} {state}" for part, state in said.items() if part != "status")
            )
        await asyncio.sleep(0.02)  # nothing tells; one has to ask


# --- killed in the middle of the work ------------------------------------------------------------------------------------------

MANY, AT_ONCE, KILLED_AT = 200, 10, 50  # messages, writers, and the answer at which the kill comes


class Burst:
    """Many sends, and a part killed in the midst of them. `answered`: the ids of those that were answered 200, in that order."""

    def __init__(self, lab: Lab, killed: str) -> None:
        self._lab, self.killed = lab, killed
        self.mark = secrets.token_hex(4)
        self.answered: list[str] = []

    @property
    def stored(self) -> list[str]:
        """The ids of those that are in MongoDB now."""
        return [
            str(found["_id"])
            for found in self._lab.mongo.messages.find(
                {"text": {"$regex": f"^{self.mark} "}}, {"_id": 1}
            )
        ]

    @property
    def lost(self) -> set[str]:
        """Answered, and not in MongoDB."""
        return set(self.answered) - set(self.stored)

    def _lines(self) -> list[str]:
        untold = len(set(self.stored) - set(self.answered))
        return [
            f"{MANY} messages by {AT_ONCE} writers; kill -9 for {LABELS[self.killed]} when {KILLED_AT} had been answered",
            f"≈ {len(self.answered)} were answered 200, {MANY - len(self.answered)} were not",
            f"≈ {untold} of these are in MongoDB all the same: saved, but nobody was told",
            f"answered 200 and not in MongoDB now: {len(self.lost)}",
        ]

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        lines = "<br>\n".join(self._lines())
        return f"<p>{lines}</p>"


async def burst(lab: Lab, alice: User, bob: User, kill: str) -> Burst:
    """Send many messages, a few at a time, and kill `service`, `redis` or `mongo` when KILLED_AT of them have been answered."""
    await ready(alice)
    done, numbers = Burst(lab, kill), iter(range(1, MANY + 1))
    await asyncio.gather(
        *(_write(done, numbers, alice, bob, _killer(lab, kill)) for _ in range(AT_ONCE))
    )
    if kill != "service":  # what follows looks for flow events of its own: these first
        last = done.answered[-1]
        await poll_until(
            lambda: any(
                event.get("messageId") == last and event["stage"] == "respond"
                for event in lab.events
            ),
            BACK,
        )
    return done


def _killer(lab: Lab, what: str) -> Callable[[], Awaitable[Any]]:
    if what == "service":
        return lab.kill_service
    name: Name = "redis" if what == "redis" else "mongo"
    return lambda: lab.engines.crash(name)


async def _write(
    done: Burst,
    numbers: Iterable[int],
    alice: User,
    bob: User,
    kill: Callable[[], Awaitable[Any]],
) -> None:
    """One writer: the next number, as long as there is one. A send that fails is not repeated."""
    for number in numbers:
        try:
            answer = await alice.send_by_http(bob.id, f"{done.mark} {number}")
        except (ChatlabError, httpx.TransportError):
            continue
        done.answered.append(answer.message["_id"])
        if len(done.answered) == KILLED_AT:
            await kill()


# --- an answer that is lost ----------------------------------------------------------------------------------------------------


async def lose_the_answer(
    alice: User, bob: User, text: str, client_id: str | None = None
) -> PlainText:
    """Send, and hang up when the answer arrives, without having read it: as when a phone loses its network."""
    place = urlsplit(alice.url)
    body = json.dumps({"receiverId": bob.id, "text": text, "clientId": client_id}).encode()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(
        encode_request(
            "POST",
            "/api/messages/send",
            f"Host: {place.netloc}\r\nAuthorization: Bearer {alice.token}\r\n",
            body,
        )
    )
    await asyncio.wait_for(reader.read(1), BACK)
    writer.close()
    return PlainText("Sent. The answer came, and was lost before anybody had read it.")


# --- without the worker --------------------------------------------------------------------------------------------------------

ROUNDS = 3  # of a message that is sent, edited, reacted to


class Trial(NamedTuple):
    """Reads after changes, and a cached message to its end. `told`: the worker's word of it; `beats`: of the worker, meanwhile."""

    worker: str
    reads: int
    right: int
    expired_at_deadline: bool
    told: bool
    beats: int

    @property
    def rows(self) -> dict[str, str]:
        return {
            "reads that show the latest state": f"{self.right} of {self.reads}",
            "the cached message ends": "at its deadline"
            if self.expired_at_deadline
            else "at another time",
            "beats of the worker meanwhile": "some" if self.beats else "none",
            "who tells of the end": "the worker" if self.told else "nobody",
        }


class Trials(list[Trial]):
    """Side by side."""

    def __repr__(self) -> str:
        return repr(side_by_side({trial.worker: trial.rows for trial in self}))

    def _repr_html_(self) -> str:
        return side_by_side({trial.worker: trial.rows for trial in self})._repr_html_()


async def trial(lab: Lab, alice: User, bob: User, beside: Iterable[Trial] = ()) -> Trials:
    """Change and read, change and read; then watch one message to the end of its life. To be shown beside earlier ones."""
    before = len(lab.events)
    right = [same for _ in range(ROUNDS) for same in await _round(alice, bob)]
    trace = await _cached(alice, bob)
    life = await _to_its_end(lab, trace)
    patience = (
        11 if lab.settings.sweeper else 1.1
    ) * lab.settings.sweep_interval  # the beat that would tell does not come
    told = await lab.events.wait_for(
        lambda: any(
            event["stage"] == "cleaned" and event["key"] == trace.key for event in lab.events
        ),
        patience,
    )
    beats = sum(event["stage"] == "sweep" for event in list(lab.events)[before:])
    worker = f"worker {'on' if lab.settings.sweeper else 'off'}"
    return Trials(
        [
            *beside,
            Trial(worker, len(right), sum(right), life.expired_at_deadline, bool(told), beats),
        ]
    )


async def _round(alice: User, bob: User) -> list[bool]:
    """One message through its changes; both of them read after each. Is what a read gives what MongoDB has?"""
    message = (await alice.send_by_http(bob.id, "first words")).message
    right = await _read_both(alice, bob)
    await alice.http.patch(f"/api/messages/{message['_id']}", json={"text": "second thoughts"})
    right += await _read_both(alice, bob)
    await bob.http.put(f"/api/messages/{message['_id']}/reactions/👍")
    return right + await _read_both(alice, bob)


async def _read_both(alice: User, bob: User) -> list[bool]:
    reads = [await bob.read(alice.id), await alice.read(bob.id)]
    truth = await bob.read(alice.id, fresh=True)
    return [read.messages == truth.messages for read in reads]


async def _cached(alice: User, bob: User) -> Trace:
    """A send that was cached: on a very slow machine a write to the cache may come too late, and is not made."""
    trace = await alice.send(bob, "How long do I last?")
    for _ in range(TRIES):
        if "cache_message" not in trace.stages:
            trace = await alice.send(bob, "How long do I last?")
    return trace


async def _to_its_end(lab: Lab, trace: Trace) -> KeyLifetime:
    """The life of this message's key, up to the first look that does not find it. `Lab.life` would wait for the worker's word too."""

    def cached() -> StageEvent | None:
        return next(
            (
                event
                for event in lab.events
                if event["stage"] == "cached" and event["key"] == trace.key
            ),
            None,
        )

    began = await lab.events.wait_for(cached, BACK)
    if began is None:
        raise PremiseGone(f"{trace.key} was not cached.", "run the cell again")
    life = KeyLifetime.from_event(began)
    while life.state == "live":
        await asyncio.sleep(life.next_check_s())
        life.check(lab.redis.pttl)
    return life


# --- exercise 1: what would lose messages --------------------------------------------------------------------------------------

FEW = 20
OUTAGES = ("service", "redis", "mongo", "worker", "disk")


@check
async def loses(lab: Lab, alice: User, bob: User, answer: Any) -> CheckResult:
    """Sends a few messages, has this outage, and counts those that are still in MongoDB."""
    if answer not in OUTAGES:
        return not_yet(
            f"Choose one of these: {', '.join(OUTAGES)}. The check really does it to the private engines of this notebook."
        )
    await ready(alice)
    ids = [(await alice.send_by_http(bob.id, f"one of {FEW}")).message["_id"] for _ in range(FEW)]
    there, again = await _there_after(lab, alice, answer, ids)
    story = f"{FEW} messages were answered 200, then came the outage, and {there} of them are in MongoDB."
    if there == FEW:
        return not_yet(f"{story} What do they lie on, if no process is needed to remember them?")
    return correct(
        f"{story} The folder is back: {again} of them. A majority of one member is one disk; "
        "members on other machines, or a backup, are what a lost disk takes."
    )


async def _there_after(lab: Lab, alice: User, outage: str, ids: list[str]) -> tuple[int, int]:
    """How many of these are in MongoDB after the outage, and how many once everything is back."""

    def count() -> int:
        return len(
            set(ids) & {str(found["_id"]) for found in lab.mongo.messages.find({}, {"_id": 1})}
        )

    if outage == "disk":
        there = await _without_disk(lab, count)
    else:
        await _suffer(lab, outage)
        there = count()
    await ready(alice)
    return there, count()


async def _suffer(lab: Lab, outage: str) -> None:
    if outage == "worker":
        await lab.restart(sweeper=False)
        return
    await _killer(lab, outage)()
    if outage == "service":
        await lab.restart()


async def _without_disk(lab: Lab, count: Callable[[], int]) -> int:
    """MongoDB on an empty folder, as after a broken disk; then on its own again."""
    await lab.engines.stop("mongo")
    folder = DataFolder(lab.settings).db
    aside = folder.with_name("db-aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    try:
        await lab.engines.start("mongo")
        return count()
    finally:
        await lab.engines.stop("mongo")
        shutil.rmtree(folder)
        aside.rename(folder)
        await lab.engines.start("mongo")


# --- exercise 2: prove that nothing was lost -----------------------------------------------------------------------------------


@check
async def proves(lab: Lab, burst: Burst, answer: Any) -> CheckResult:
    """Asks the expression what is lost; then takes one message away, and asks again."""
    named = _named(answer, lab, burst)
    if named:
        return not_yet(
            f"Every message that was answered is in MongoDB now, and your expression names {len(named)} as lost. MongoDB also has messages "
            "that are not of this burst, or whose answer never came: they are no loss."
        )
    victim = burst.answered[KILLED_AT // 2]
    document = lab.mongo.messages.find_one_and_delete({"_id": ObjectId(victim)})
    try:
        named = _named(answer, lab, burst)
    finally:
        if document:
            lab.mongo.messages.insert_one(document)
    if named == {victim}:
        return correct(
            "It names none. Then the check took one message out of MongoDB, for a moment, and it named exactly that one."
        )
    return not_yet(
        f"It names none, as it should. But with one answered message taken out of MongoDB, for a moment, it names {len(named)}. "
        "Which of the answered are not among the stored?"
    )


def _named(answer: Any, lab: Lab, burst: Burst) -> set[str]:
    """The ids that the learner's expression calls lost. Raises UnusableAnswer if it gives something else."""
    stored = [str(found["_id"]) for found in lab.mongo.messages.find({}, {"_id": 1})]
    try:
        named = call_answer(answer, list(burst.answered), stored)
    except UnusableAnswer as wrong:
        raise UnusableAnswer(f"{wrong} Both are lists of ids.") from None
    if not isinstance(named, Iterable) or isinstance(named, str):
        raise UnusableAnswer(
            f"Your expression gives {named!r}. It is to give the ids that are lost: a set of them, or a list."
        )
    return {str(one) for one in named}


# --- exercise 3: a retry that is safe ------------------------------------------------------------------------------------------

LOSSES = 3


@check
async def once(lab: Lab, alice: User, answer: Any) -> CheckResult:
    """Loses the answers of a few sends, repeats each with the learner's clientId, and counts what the receiver has."""
    await ready(alice)
    receiver = await lab.new_user("dora")
    for number in range(1, LOSSES + 1):
        await lose_the_answer(alice, receiver, f"message {number}", _client_id(answer, number, 1))
        refused = await _again(alice, receiver, f"message {number}", _client_id(answer, number, 2))
        if refused:
            return not_yet(
                f"Message {number} was refused: {refused} A clientId stands for one message, so each needs its own."
            )
    copies = len((await receiver.read(alice.id, fresh=True)).messages)
    if copies == LOSSES:
        return correct(
            f"{LOSSES} messages, each sent twice because the first answer was lost: the receiver has {copies}."
        )
    return not_yet(
        f"{LOSSES} messages, each sent twice because the first answer was lost: the receiver has {copies}. "
        "The second try has to say that it is the same message: what does your function give for (1, 1), and what for (1, 2)?"
    )


def _client_id(answer: Any, number: int, attempt: int) -> str | None:
    client_id = call_answer(answer, number, attempt)
    if client_id is not None and not (isinstance(client_id, str) and 1 <= len(client_id) <= 64):
        raise UnusableAnswer(
            f"A clientId is a text of 1 to 64 characters. Your function gives {client_id!r}."
        )
    return client_id


async def _again(alice: User, receiver: User, text: str, client_id: str | None) -> str:
    """Send; what the service says if it refuses."""
    try:
        await alice.send_by_http(receiver.id, text, clientId=client_id)
    except Conflict as conflict:
        return conflict.detail
    return ""


# --- what holds ----------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, bursts: Collection[Burst], trials: Trials) -> ClaimResults:
    """What the document says of what is reliable, held against the outages of this notebook."""
    lost = sum(len(burst.lost) for burst in bursts)
    killed = ", ".join(LABELS[burst.killed] for burst in bursts)
    reads = "; ".join(
        f"{trial.worker}: {trial.right} of {trial.reads} reads right" for trial in trials
    )
    return lab.record_claims(
        ClaimResult(
            "never_lost",
            f"kill -9 for {killed}: of those that were answered, {lost} are missing",
            holds_if(lost == 0),
        ),
        ClaimResult(
            "worker_consistency",
            reads,
            holds_if(
                any(trial.right < trial.reads for trial in trials if trial.worker == "worker off")
            ),
        ),
    )
