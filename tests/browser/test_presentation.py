"""The presentation clock of the page /lab: what it shows of real events, on a clock of the test.

The events are those of a real service. The modules of the page run in a real browser, but the test
decides how much time passes, so nothing depends on the speed of the machine.
"""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import socketio
from browsing import BrowserSession, browser, shared
from playwright.async_api import Browser, Page
from shared_service import SharedService
from waiting import LIMIT_S, wait_until

__all__ = ["browser", "shared"]  # fixtures
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),
]

Events = list[dict[str, Any]]
SEND = ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
TTL_MS = 5_000
FRAME_MS = 20
# Play the events: `speed` is that of the page, and in step mode there is a step every 3 seconds.
PLAY = """
async ({ events, arrivals, users, speed, seconds, replayAt }) => {
    const { Tape } = await import("./static/projector/tape.js");
    const { Presentation } = await import("./static/projector/presentation.js");
    let now = events[0].at - 500;
    const tape = new Tape(() => true, () => now);
    const presentation = new Presentation(tape, {
        name: (user) => user,
        isHero: (user) => users.includes(user),
        otherThan: (user) => users.find((other) => other !== user),
        textOf: () => "text",
        beginning: "Nothing has happened yet.",
    });
    tape.clockOffset = 0;  // the clock of the test is that of the service
    presentation.setSpeed(speed);
    const frames = [];
    let next = 0;
    for (let passed = 0; passed < seconds * 1000; passed += 20) {
        now += 20;
        while (next < events.length && events[next].at <= now) {
            for (const item of arrivals.filter(({ after }) => after === next)) tape.put(item);
            tape.add(events[next++]);
        }
        if (speed === "step" && passed % 3000 === 2980) presentation.step();
        if (passed === replayAt * 1000) presentation.replay();
        presentation.frame(20);
        const { at, trip, sentence, view, picture } = presentation;
        const { newest } = picture;
        frames.push({
            passed, view, sentence, at,
            behind: now - at,
            stage: trip?.story ? trip.legs[trip.index].stage : "",
            left: newest?.state === "live" ? Math.max(0, newest.deadline - at) : 0,
            state: newest?.state ?? "none",
            sent: picture.counts.sent,
            arrived: (picture.screens[users[1]] ?? []).length > 0,
        });
    }
    return frames;
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(browser: Browser, shared: SharedService) -> AsyncIterator[Page]:
    """A page of the service, from which the modules are loaded."""
    session = await BrowserSession.start(browser, shared.service.url)
    yield (await session.open("lab")).page
    await session.context.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(shared: SharedService) -> tuple[Events, list[str]]:
    """The stage events of one send, from the request until its key is cleaned, and both users."""
    ann, bob = shared.create_user(), shared.create_user()
    events: Events = []
    client = socketio.AsyncClient(reconnection=False)
    client.on("flow", events.append, namespace="/flow")
    await client.connect(
        shared.service.url,
        auth={"token": ann.token},
        namespaces=["/flow"],
        transports=["websocket"],
        wait_timeout=int(LIMIT_S),
    )
    await ann.send(bob, "hello")
    await wait_until(
        lambda: [event["stage"] for event in events],
        "the key to be cleaned, and the end of that sweep",
        is_reached=lambda stages: (
            "cleaned" in stages and "sweep" in stages[stages.index("cleaned") :]
        ),
    )
    await client.disconnect()
    for user in (ann, bob):
        await user.close()
    return events, [ann.id, bob.id]


async def play(
    page: Page,
    story: tuple[Events, list[str]],
    speed: str,
    seconds: float,
    *,
    replay_at: float = -1,
    arrivals: Events | None = None,
) -> list[dict[str, Any]]:
    """Return what is presented in each frame. An arrival is put on the tape before event `after`."""
    events, users = story
    asked = {"events": events, "users": users, "speed": speed, "seconds": seconds}
    asked |= {"replayAt": replay_at, "arrivals": arrivals or []}
    return list(await page.evaluate(PLAY, asked))


def in_order(values: list[Any]) -> list[Any]:
    """Return the values without repetitions of the one before."""
    return [value for value, _ in itertools.groupby(values)]


def states_of_legs(frames: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the states of the newest key during each leg of the trip."""
    legs = itertools.groupby(frames, key=lambda frame: frame["stage"])
    return {stage: in_order([one["state"] for one in those]) for stage, those in legs if stage}


BORN_IN_ITS_BOX = {
    stage: ["none"] if place < 3 else ["none", "live"] if place == 3 else ["live"]
    for place, stage in enumerate(SEND)
}


async def test_a_slow_request_is_shown_as_a_whole(
    page: Page, story: tuple[Events, list[str]]
) -> None:
    """Redis answers a second late, after the event of the new key. The key is born in its box all the same."""
    events, users = story
    first = next(place for place, event in enumerate(events) if event["stage"] == "cache_message")
    slow = [
        event | {"at": event["at"] + (1000 if place >= first else 0)}
        for place, event in enumerate(events)
    ]
    frames = await play(page, (slow, users), "real", 14)
    assert states_of_legs(frames) == BORN_IN_ITS_BOX


async def test_a_message_that_arrives_in_the_moment_of_its_request_comes_after_it(
    page: Page, story: tuple[Events, list[str]]
) -> None:
    """The clock of the page is not exact: it may say that both happened at the same time."""
    events, users = story
    stages = [event["stage"] for event in events]
    message = {"_id": events[stages.index("emit")]["messageId"], "senderId": users[0], "seq": 1}
    message |= {"version": 1, "text": "hello", "reactions": {}, "deletedAt": None}
    arrival = {"kind": "arrival", "at": events[0]["at"], "screen": users[1], "message": message}
    arrivals = [arrival | {"after": stages.index("cached")}]
    frames = await play(page, story, "real", 14, arrivals=arrivals)
    assert states_of_legs(frames) == BORN_IN_ITS_BOX
    assert next(frame["stage"] for frame in frames if frame["arrived"]) == "emit"


@pytest.mark.slow
@pytest.mark.parametrize(("speed", "factor"), [("real", 1), ("slow", 4)])
async def test_time_passes_at_the_chosen_speed(
    page: Page, story: tuple[Events, list[str]], speed: str, factor: int
) -> None:
    """Each leg of the trip, and then the life of the key, takes as long as the speed says.

    The key is gone only after its bar has ended, although it has really expired long before.
    """
    frames = await play(page, story, speed, 30 * factor)
    stages = in_order([frame["stage"] for frame in frames])
    assert stages == ["", *SEND, ""]
    leg_ms = [FRAME_MS * sum(frame["stage"] == stage for frame in frames) for stage in SEND]
    assert all(abs(took - 1100 * factor) <= 2 * FRAME_MS for took in leg_ms)
    lives = [frame for frame in frames if frame["left"] > 0 and not frame["stage"]]
    life_ms = FRAME_MS * len(lives)
    assert abs(life_ms - (TTL_MS + 1200) * factor) < 300 * factor  # with the pause after the trip
    states = in_order([frame["state"] for frame in frames])
    assert states in (["none", "live", "gone"], ["none", "live", "expired", "gone"])
    assert not [frame for frame in frames if frame["state"] == "gone" and frame["left"] > 0]
    assert max(frame["behind"] for frame in frames) > 5_000 * factor
    assert frames[-1]["behind"] < 400, "in the end the picture is live again"
    assert [frame["at"] for frame in frames] == sorted(frame["at"] for frame in frames)


async def test_the_sentence_belongs_to_what_moves(
    page: Page, story: tuple[Events, list[str]]
) -> None:
    """Each leg has its own sentence, and each sentence stays for more than a second.

    The flows are large one after the other.
    """
    frames = await play(page, story, "real", 30)
    for stage in SEND:
        sentences = {frame["sentence"] for frame in frames if frame["stage"] == stage}
        assert len(sentences) == 1, stage
    assert in_order([frame["view"] for frame in frames]) == ["send", "life", "worker", "life"]
    assert len(in_order([frame["sentence"] for frame in frames])) >= len(SEND) + 6
    told = [list(group) for _, group in itertools.groupby(frames, lambda frame: frame["sentence"])]
    assert min(FRAME_MS * len(group) for group in told[1:-1]) > 1_000


async def test_a_step_is_one_sentence(page: Page, story: tuple[Events, list[str]]) -> None:
    """In step mode nothing happens without a step, and each step says something new."""
    frames = await play(page, story, "step", 60)
    told = [
        in_order([frame["sentence"] for frame in group])
        for _, group in itertools.groupby(
            frames, key=lambda frame: (frame["passed"] + FRAME_MS) // 3000
        )
    ]
    assert all(len(sentences) <= 2 for sentences in told)
    continuous = await play(page, story, "real", 30)
    legs = in_order([frame["sentence"] for frame in continuous if frame["stage"]])
    stepped = in_order([frame["sentence"] for frame in frames])
    assert [sentence for sentence in stepped if sentence in legs] == legs


async def test_a_replay_says_the_same_again(page: Page, story: tuple[Events, list[str]]) -> None:
    """It begins again from the newest story, and ends in the present."""
    frames = await play(page, story, "real", 60, replay_at=30)
    first = in_order([frame["sentence"] for frame in frames if frame["passed"] < 30_000])
    again = in_order([frame["sentence"] for frame in frames if frame["passed"] > 30_000])
    assert again[-len(first) + 1 :] == first[1:]
    assert frames[-1]["behind"] < 400
    assert frames[-1]["sent"] == 1


async def test_a_key_that_the_worker_has_logged_is_cleaned(page: Page) -> None:
    """Also if its deadline is, by the clock of the service, a moment earlier than the page knows."""
    words_of = (
        """async (key) => (await import("./static/projector/life_scene.js")).stateOf(key, 0)"""
    )
    key = {"deadline": 5_000, "endedAt": 4_999}
    assert await page.evaluate(words_of, key | {"state": "expired"}) == "expired"
    assert await page.evaluate(words_of, key | {"state": "gone"}) == "cleaned"


async def test_a_burst_does_not_delay_the_picture(
    page: Page, story: tuple[Events, list[str]]
) -> None:
    """Requests of users who are on no screen are counted, and only the last ones get a trip."""
    events, users = story
    one = [event for event in events if event["door"] in ("http", "socket")]
    many = [
        event | {"trace": f"{number}", "at": event["at"] + number}
        for number in range(200)
        for event in one
    ]
    many.sort(key=lambda event: event["at"])
    crowd = await play(page, (many, []), "real", 10)
    assert crowd[-1]["sent"] == 200
    assert max(frame["behind"] for frame in crowd) < 400
    ours = await play(page, (many, users), "real", 60)
    assert ours[-1]["sent"] == 200
    trips = [stage for stage in in_order([frame["stage"] for frame in ours]) if stage == "request"]
    assert len(trips) <= 5
