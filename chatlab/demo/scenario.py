"""The scenario of the demo: two users, one message over each transport, and a look at both servers.

Everything observed goes into a `DemoRecord`, which `promises` judges.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable

import httpx
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError
from socketio.exceptions import SocketIOError

from chatlab.client import ChatClient, Json, ReceivedEvent
from chatlab.demo.promises import contains_in_order
from chatlab.demo.record import DemoRecord, KeySample, ObservedMessage
from chatlab.demo.servers import DemoServers, ServerProbe
from chatlab.errors import ChatlabError
from chatlab.settings import Settings

SAMPLE_INTERVAL_S = 0.025  # between two looks at a key
DRAW_INTERVAL_S = 0.08  # between two frames
EVENT_TIMEOUT_S = 2.0  # for an event to reach a socket
MAX_SEND_GAP_S = 1.0  # between the two sends
LAST_FRAME_S = 0.6  # how long the last frame stays before the summary
EXPECTED_ERRORS = (
    ChatlabError,
    httpx.HTTPError,
    SocketIOError,
    PyMongoError,
    RedisError,
    OSError,  # includes TimeoutError
)
USER_NAMES = ("ada", "bob", "cleo", "dan", "eve", "finn", "grace", "hugo", "ida", "juri")

Draw = Callable[[DemoRecord], None]
Users = tuple[ChatClient, ChatClient]


async def run_scenario(servers: DemoServers, settings: Settings, draw: Draw) -> DemoRecord:
    """Run the scenario from sign-up to the last read, drawing it as it happens."""
    async with _two_users(servers) as users, contextlib.aclosing(ServerProbe(servers)) as probe:
        one, other = users
        messages = (
            ObservedMessage("http", one.id, other.id),
            ObservedMessage("socket", other.id, one.id),
        )
        record = DemoRecord(settings, messages)
        await one.watch_flow(record.handle_event)
        async with _drawing(draw, record):
            await _send_and_follow_both(record, users, probe)
            await _read_after_expiry(record, users)
            await asyncio.sleep(LAST_FRAME_S)
    return record


@contextlib.asynccontextmanager
async def _two_users(servers: DemoServers) -> AsyncIterator[Users]:
    """Sign up two users with random names and connect their sockets."""
    async with contextlib.AsyncExitStack() as stack:
        names = [
            f"{name}-{secrets.token_hex(2)}"
            for name in secrets.SystemRandom().sample(USER_NAMES, 2)
        ]
        one, other = await asyncio.gather(
            *(ChatClient.sign_up(servers.url, name, secrets.token_urlsafe(16)) for name in names)
        )
        for user in (one, other):
            stack.push_async_callback(user.close)
            await user.connect()
        yield one, other


@contextlib.asynccontextmanager
async def _drawing(draw: Draw, record: DemoRecord) -> AsyncIterator[None]:
    """Call `draw` many times a second while the block runs, and once more after it."""

    async def keep_drawing() -> None:
        while True:
            draw(record)
            await asyncio.sleep(DRAW_INTERVAL_S)

    drawing = asyncio.create_task(keep_drawing())
    try:
        yield
    finally:
        drawing.cancel()
    draw(record)


async def _send_and_follow_both(record: DemoRecord, users: Users, probe: ServerProbe) -> None:
    """Send over HTTP, then over Socket.IO in the other direction, and follow both to the end.

    The second send comes a fifth of a TTL later, so that the two bars differ on the screen.
    """
    gap_s = min(MAX_SEND_GAP_S, record.milestones.expired_s / 5)
    async with asyncio.TaskGroup() as group:
        for message in record.messages:
            group.create_task(_send_and_follow(record, message, users, probe))
            await asyncio.sleep(gap_s)


async def _send_and_follow(
    record: DemoRecord, message: ObservedMessage, users: Users, probe: ServerProbe
) -> None:
    try:
        await _send(record, message, users)
        await _look_at_servers(message, probe)
        await _wait_for_events(record, message, users)
        await _read(record, message, users)
        await _follow_until_cleaned(record, message, probe)
    except EXPECTED_ERRORS as error:
        message.error = str(error) or type(error).__name__
        record.add_log(message.transport_name, f"stopped: {message.error}")


async def _send(record: DemoRecord, message: ObservedMessage, users: Users) -> None:
    name, sender = message.transport_name, _user(users, message.sender)
    send = sender.send_by_http if message.transport == "http" else sender.send_by_socket
    record.add_log(name, f"{message.sender} sends to {message.receiver}")
    message.send_result = answer = await send(message.receiver, f"Hello over {name}")
    message.answered_at = time.time() * 1000
    record.add_log(
        name, f"{answer.status} after {answer.took_ms:.1f} ms, message {message.message_id}"
    )


def _user(users: Users, user_id: str) -> ChatClient:
    return users[0] if users[0].id == user_id else users[1]


async def _look_at_servers(message: ObservedMessage, probe: ServerProbe) -> None:
    """Read the document and then both keys, right after the response."""
    message.stored = await probe.stored_message(message.message_id)
    message.samples.append(await probe.sample_entry(message))
    message.window = await probe.sample_window(message)


async def _wait_for_events(record: DemoRecord, message: ObservedMessage, users: Users) -> None:
    """Wait until both users have received `newMessage`, or until the timeout."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            # The socket library has no asyncio.Event to wait for.
            while not all(_events_about(message, user) for user in users):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    receivers = [user.id for user in users if _events_about(message, user)]
    record.add_log(
        message.transport_name, f"newMessage received by {' and '.join(receivers) or 'no user'}"
    )


def _events_about(message: ObservedMessage, user: ChatClient) -> list[ReceivedEvent]:
    return [
        event
        for event in user.received
        if event.event == "newMessage" and event.payload["_id"] == message.message_id
    ]


async def _read(record: DemoRecord, message: ObservedMessage, users: Users) -> None:
    """Let the receiver read the conversation at once."""
    message.read_result = reading = await _user(users, message.receiver).read(message.sender)
    message.read_is_complete = contains_in_order(reading.messages, _sent(record))
    record.add_log(
        "GET", f"after {message.transport_name}: X-Cache {reading.cache}, {reading.took_ms:.1f} ms"
    )


def _sent(record: DemoRecord) -> list[Json]:
    return [message.send_result.message for message in record.messages if message.send_result]


async def _follow_until_cleaned(
    record: DemoRecord, message: ObservedMessage, probe: ServerProbe
) -> None:
    """Sample the key until the sweeper has logged its expiry, or should have."""
    milestones, task = record.milestones, asyncio.current_task()
    assert task
    while message.age_s() < milestones.cleaned_deadline_s and not (
        message.cleaned and message.first_absent
    ):
        if task.cancelling():  # before Python 3.12 asyncio.wait_for in a library may swallow Ctrl-C
            raise asyncio.CancelledError
        before = message.samples[-1]
        message.samples.append(sample := await probe.sample_entry(message))
        if before.age_s < milestones.still_cached_s <= sample.age_s:
            record.add_log(message.transport_name, _presence(sample))
        if before.pttl_ms > 0 >= sample.pttl_ms:
            record.add_log(message.transport_name, f"gone from Redis at {sample.age_s:.2f} s")
        await asyncio.sleep(SAMPLE_INTERVAL_S)


def _presence(sample: KeySample) -> str:
    if sample.pttl_ms > 0:
        return f"still cached at {sample.age_s:.2f} s, {sample.pttl_ms} ms left"
    return f"not in Redis at {sample.age_s:.2f} s"


async def _read_after_expiry(record: DemoRecord, users: Users) -> None:
    """Read the conversation when both entries have expired; MongoDB still has all of it."""
    for message in record.messages:  # only now, so that a duplicate event would be counted
        message.received = {user.id: _events_about(message, user) for user in users}
    with contextlib.suppress(*EXPECTED_ERRORS):
        record.read_after_expiry = reading = await users[0].read(users[1].id)
        sent = _sent(record)
        record.read_after_expiry_is_complete = len(sent) == 2 and contains_in_order(
            reading.messages, sent
        )
        record.add_log(
            "GET",
            f"after expiry: X-Cache {reading.cache}, {reading.took_ms:.1f} ms, {len(reading.messages)} messages",
        )
