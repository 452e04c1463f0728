"""The models of the notebooks' widgets, fed by a real service.

What a user sees of them is tested in test_widgets_in_jupyterlab.py.
"""

import asyncio
import base64
import json
import re
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browsing import browser
from forking import PatientPopen
from playwright.async_api import Browser, expect
from waiting import wait_until

from chatlab.bench.charts import COLOURS
from chatlab.lab import Lab, start
from chatlab.lab.diagram import PLANS
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart, Chat
from chatlab.lab.widgets import stores as stores_module
from chatlab.lab.widgets.live import MIN_UPDATE_INTERVAL_S, Live, Paced
from chatlab.lab.widgets.replay import Replay
from chatlab.lab.widgets.sources import BOXES, sources_of
from chatlab.local.engines import Engines

__all__ = ["browser"]  # a fixture
# all tests share one event loop, so they can share one session
pytestmark = pytest.mark.asyncio(loop_scope="module")
PACKAGE = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
LONG_TTL_S = 600  # no key expires while a slow test looks at it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """Start a session on the MongoDB of the test run, shared by the tests of this module.

    A test uses a conversation of its own, or it must be the last one.
    """
    own: dict[str, Any] = {
        "mongo_url": engines.mongo.url,
        "data_dir": tmp_path_factory.mktemp("lab"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", PatientPopen)
        lab = await start("widgets", cache_ttl=LONG_TTL_S, sweep_interval=0.2, **own)
        yield lab
        await lab.end()


async def two(lab: Lab) -> tuple[User, User]:
    """Sign up two users who have no conversation yet."""
    number = len(lab._users)
    return await lab.user(f"alice{number}"), await lab.user(f"bob{number}")


# --- the flow map ---------------------------------------------------------------------------------


async def test_each_map_is_lit_by_its_own_kind(lab: Lab) -> None:
    """A send lights only the send map, a read the read map, and a reaction the change map.

    Stages that a request did not pass are marked as skipped.
    """
    alice, bob = await two(lab)
    maps = {of: lab.flow_map(of=of) for of in PLANS}

    def lit(of: str) -> list[str]:
        return [box["stage"] for box in maps[of].state()["boxes"] if box["tookMs"] is not None]

    trace = await alice.send(bob, "Hello")
    assert (lit("send"), lit("read"), lit("change")) == (list(trace.stages), [], [])
    await bob.read(alice.id)
    await wait_until(lambda: "respond" in lit("read"), "the read map to show the response")
    assert [box["stage"] for box in maps["read"].state()["boxes"] if box["skipped"]] == [
        "read_store"
    ]
    await bob.read(alice.id, fresh=True)
    await wait_until(
        lambda: lit("read"),
        "the way past the cache",
        is_reached=["request", "read_store", "respond"].__eq__,
    )
    sent = maps["send"].state()
    await bob.http.put(f"/api/messages/{trace.id}/reactions/👍")
    await wait_until(lambda: "respond" in lit("change"), "the change map to show the response")
    assert lit("change") == [
        "request",
        "save",
        "cache_message",
        "cache_conversation",
        "emit",
        "respond",
    ]
    assert maps["send"].state() == sent
    await wait_until(
        lambda: maps["send"].model.items() >= sent.items(),
        "the send map's model to be as its state",
    )


@pytest.mark.parametrize("plan", PLANS)
async def test_the_source_of_a_box_is_the_file_s(plan: str) -> None:
    """Every box has its functions, and their text is exactly what the file has at these lines."""
    assert set(BOXES[plan]) == {box.stage for box in PLANS[plan]}
    assert set(sources_of(plan)) == {*BOXES[plan], "way"}
    for shown in (found for sources in sources_of(plan).values() for found in sources):
        lines = (
            (PACKAGE / shown["file"])
            .read_text(encoding="utf-8")
            .splitlines()[shown["first"] - 1 : shown["last"]]
        )
        assert [line.strip() for line in lines] == [
            line.strip() for line in shown["text"].splitlines()
        ]
        name = shown["name"].rpartition(".")[2]
        assert re.match(rf"(?s:@.*?\n)?(async )?def {name}\(", shown["text"])


# Draw widgets as anywidget does: with their synced traits, and the module of `_esm` from a blob: URL.
DRAW = """async ([esm, widgets]) => {
    const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
    const { default: define } = await import(url);
    for (const traits of widgets) {
        const model = { get: (name) => traits[name], on: () => {}, off: () => {}, send: () => {} };
        const el = document.body.appendChild(document.createElement("div"));
        const widget = define();
        await widget.initialize({ model });
        widget.render({ model, el });
    }
}"""


# The names of keys in the story that are wider than their bars.
KEYS_OUTSIDE = """() => [...document.querySelectorAll(".cl-replay .s-key[visibility=visible]")]
    .map((key) => [key.querySelector("text"), key.querySelector("rect").getBoundingClientRect().right])
    .filter(([name, end]) => name.getBoundingClientRect().right > end + 1)
    .map(([name]) => name.textContent)"""


async def test_a_browser_draws_each_widget(lab: Lab, browser: Browser) -> None:
    """`widget.js` imports the drawing of every kind of widget, with the modules that it imports."""
    trace = await (people := await two(lab))[0].send(people[1], "Hello")
    chart = lab.chart("A chart")
    chart.add("one", 1)
    widgets: list[Live] = [
        lab.flow_map(),
        lab.ttl_board(),
        lab.timeline(),
        lab.chat(*people),
        lab.stores(trace),
        lab.replay(trace),
        chart,
    ]
    kinds = {kind.__name__ for kind in (*Live.__subclasses__(), *Paced.__subclasses__())}
    assert {type(widget).__name__ for widget in widgets} == kinds - {"Paced", "EndReport"}
    names = ("modules", "about", "model", "error", "resting", "big")
    traits = [{name: getattr(widget, name) for name in names} for widget in widgets]
    page = await browser.new_page()
    await page.add_style_tag(content=str(Replay._css))
    await page.evaluate(DRAW, [str(Live._esm), traits])
    for kind in ("map", "board", "timeline", "chat", "stores", "replay", "chart"):
        await expect(page.locator(f".cl-{kind}")).to_be_visible()
    await expect(page.locator(".cl-replay .cl-sentence")).to_contain_text(
        trace.message["senderId"].capitalize()
    )
    await expect(page.locator(".cl-replay .s-key[visibility=visible]")).to_have_count(2)
    assert await page.evaluate(KEYS_OUTSIDE) == []
    await expect(page.locator(".cl-error:visible")).to_have_count(0)
    await page.close()


# --- the story of a message -----------------------------------------------------------------------


async def test_the_story_of_a_message_ends_when_its_key_was_cleaned(lab: Lab) -> None:
    """It begins with the request, and has what follows, of other requests too. Then it is complete."""
    alice, bob = await two(lab)
    await alice.send(bob, "before")
    await lab.update_settings(cache_ttl=2)
    trace = await alice.send(bob, "Hello")
    await lab.update_settings(cache_ttl=LONG_TTL_S)
    story = lab.replay(trace)
    assert story.about == {"id": trace.id, "text": "Hello", "sender": alice.id, "receiver": bob.id}
    await bob.read(alice.id)

    def told() -> list[str]:
        return [event["stage"] for event in story.model["events"]]

    stages = await wait_until(told, "the sweep that cleaned the key", is_reached=is_complete)
    assert story.model["events"][0] == trace.events[0]
    assert {*trace.stages, "read_cache", "expired"} <= set(stages)
    await alice.send(bob, "after")
    assert told() == stages
    assert trace.id not in repr(story)


def is_complete(stages: list[str]) -> bool:
    return "cleaned" in stages and stages[-1] == "sweep"


# --- the timeline ---------------------------------------------------------------------------------


async def test_the_timeline_has_sweeps_and_lifetimes(lab: Lab) -> None:
    """The timeline has every sweep, and each key with its deadline, expiry report and lag."""
    alice, bob = await two(lab)
    timeline = lab.timeline()
    await lab.update_settings(cache_ttl=2)
    trace = await alice.send(bob, "Hello")
    lifetime = await lab.key_lifetime(trace)
    await lab.update_settings(cache_ttl=LONG_TTL_S)
    await wait_until(
        lambda: timeline.model["lifetimes"][-1]["reportedMs"], "the sweeper's report of the expiry"
    )
    (shown,) = [
        lifetime for lifetime in timeline.model["lifetimes"] if lifetime["key"] == trace.key
    ]
    assert (shown["key"], shown["reportedMs"]) == (trace.key, lifetime.reported_ms)
    assert shown["lagMs"] == pytest.approx(shown["reportedMs"] - shown["deadlineMs"], abs=0.01)
    assert shown["lagMs"] > 0
    sweeps = {
        event["at"]
        for event in lab.events
        if event["stage"] == "sweep" and event["at"] > lifetime.cached_ms
    }
    await wait_until(
        lambda: {sweep["at"] for sweep in timeline.model["sweeps"]} >= sweeps, "every sweep"
    )
    assert lab.timeline().model["lifetimes"] == timeline.model["lifetimes"]
    assert (
        timeline.snapshot().count('<img class="measured"') == timeline.snapshot().count("<img") == 1
    )


@pytest.mark.slow
async def test_many_events_cause_few_updates(lab: Lab) -> None:
    """200 sends cause many events, but the timeline is updated at most ten times per second.

    It keeps the newest keys, and the last one is included.
    """
    alice, bob = await two(lab)
    timeline, updates, began = lab.timeline(), list[dict[str, Any]](), time.monotonic()
    timeline.observe(lambda change: updates.append(change["new"]), "model")
    for _ in range(10):
        await asyncio.gather(*(alice.send_by_http(bob.id, "Hello") for _ in range(20)))
    last = await alice.send(bob, "The last one")
    await wait_until(
        lambda: [lifetime["key"] for lifetime in timeline.model["lifetimes"]],
        "the last key",
        is_reached=lambda keys: last.key in keys,
    )
    assert len(updates) <= (time.monotonic() - began) / MIN_UPDATE_INTERVAL_S + 2
    assert len(timeline.model["lifetimes"]) == 12
    # even with as many sweeps as it keeps, which happens on a slow machine
    assert len(json.dumps(timeline.model)) < 20_000


# --- two screens ----------------------------------------------------------------------------------


def typed(chat: Chat, side: str, **asked: Any) -> None:
    """Send the message that the drawing sends when a user acts."""
    chat._handle_custom_msg({"side": side, **asked}, [])


def texts(chat: Chat, side: str) -> list[str]:
    """Return the texts on a screen, from top to bottom."""
    return [item["text"] for item in chat.model[side]["items"]]


async def opened(lab: Lab, *people: User) -> Chat:
    """Show the screens of two users, and wait until both are connected."""
    chat = lab.chat(*(people or await two(lab)))
    await wait_until(
        lambda: chat.model["left"]["open"] and chat.model["right"]["open"],
        "both screens to be connected",
    )
    return chat


async def test_both_screens_receive_what_is_typed(lab: Lab) -> None:
    """A typed message goes through the service over the chosen transport.

    It appears on both screens with the time it took.
    """
    chat, flow = await opened(lab), lab.flow_map()
    for number, (side, door) in enumerate([("left", "http"), ("right", "socket")], 1):
        typed(chat, side, do="send", text=f"by {door}", door=door, clientId=door)
        expected = ["by http", "by socket"][:number]
        for screen in ("left", "right"):
            await wait_until(
                partial(texts, chat, screen),
                f"message {number} on the {screen} screen",
                is_reached=expected.__eq__,
            )
        await wait_until(
            lambda: flow.model["door"], "the map to show the transport", is_reached=door.__eq__
        )
    assert texts(chat, "left") == texts(chat, "right") == ["by http", "by socket"]
    assert lab.find_messages(text="by socket")[0]["senderId"] == chat.model["right"]["id"]
    assert all(item["tookMs"] > 0 for item in chat.model["right"]["items"])
    assert "by socket" in chat.snapshot()


async def test_screens_show_changes_and_typing(lab: Lab) -> None:
    """An edit and a reaction from elsewhere change the row on the screen.

    The typing indicator appears only on the other screen.
    """
    alice, bob = await two(lab)
    chat = await opened(lab, alice, bob)
    trace = await alice.send(bob, "first")
    await alice.http.patch(f"/api/messages/{trace.id}", json={"text": "second"})
    await bob.http.put(f"/api/messages/{trace.id}/reactions/👍")
    await wait_until(
        lambda: chat.model["right"]["items"] and chat.model["right"]["items"][0]["reactions"],
        "the reaction",
    )
    (item,) = chat.model["right"]["items"]
    assert (item["text"], item["version"], item["reactions"]) == ("second", 3, {"👍": [bob.id]})
    typed(chat, "left", do="typing", typing=True)
    await wait_until(lambda: chat.model["right"]["typing"], "the typing sign on the other screen")
    assert not chat.model["left"]["typing"]


async def test_a_screen_says_what_was_refused(lab: Lab) -> None:
    """A rejected send, and a service that is down, are reported on the sender's screen.

    The next successful send removes the report.
    """
    chat = await opened(lab)
    typed(chat, "left", do="send", text=" ", door="http", clientId="empty")
    await wait_until(
        lambda: "Not sent" in chat.model["left"]["trouble"], "the rejection on the screen that sent"
    )
    assert chat.model["right"]["trouble"] == ""
    typed(chat, "left", do="send", text="Now", door="socket", clientId="full")
    await wait_until(lambda: not chat.model["left"]["trouble"], "the rejection to disappear")


async def test_screens_come_back_with_the_service(lab: Lab) -> None:
    """After SIGKILL and a restart, both screens reconnect and show the messages they missed."""
    alice, bob = await two(lab)
    chat = await opened(lab, alice, bob)
    await alice.send(bob, "before")
    await wait_until(
        lambda: texts(chat, "right"), "the first message", is_reached=["before"].__eq__
    )
    await lab.kill_service()
    await wait_until(
        lambda: not chat.model["left"]["open"] and not chat.model["right"]["open"],
        "both screens to lose the connection",
    )
    await lab.restart()
    await alice.send_by_http(bob.id, "after")
    for side in ("left", "right"):
        await wait_until(
            partial(texts, chat, side),
            f"both messages on the {side} screen",
            is_reached=["before", "after"].__eq__,
        )
    await wait_until(
        lambda: chat.model["left"]["open"] and chat.model["right"]["open"],
        "both screens to be connected again",
    )


# --- stores ---------------------------------------------------------------------------------------


async def test_stores_mark_what_is_stale(lab: Lab) -> None:
    """A change that bypasses the cache makes both copies stale, and the differing field is named.

    After both have expired, only MongoDB has the message.
    """
    alice, bob = await two(lab)
    trace = await alice.send(bob, "old")
    stores = lab.stores(trace)
    assert {
        name: (place["found"]["text"], place["differs"])
        for name, place in stores.model["places"].items()
    } == dict.fromkeys(("store", "message", "window"), ("old", []))
    stores._handle_custom_msg({"views": 1}, [])
    lab.mongo.messages.update_one(
        {"senderId": alice.id}, {"$set": {"text": "new"}, "$inc": {"version": 1}}
    )

    def differs() -> list[list[str]]:
        return [stores.model["places"][name]["differs"] for name in ("message", "window")]

    await wait_until(
        differs, "both copies to be stale", is_reached=([["text", "version"]] * 2).__eq__
    )
    for name in ("message", "window"):
        assert lab.redis.pexpire(stores.model["places"][name]["key"], 1)

    def is_missing() -> list[bool]:
        return [place["found"] is None for place in stores.model["places"].values()]

    await wait_until(is_missing, "both copies to be gone", is_reached=[False, True, True].__eq__)
    assert repr(stores).splitlines()[1:] == [
        "Redis, the message       not there",
        "Redis, the conversation  not there",
    ]
    await alice.send(bob, "another")
    assert stores.read()["places"]["window"]["deadlineMs"]
    assert "not in it" in stores.snapshot()  # there is a window, but a newer one


async def test_stores_send_only_changes_and_read_only_while_visible(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stores are read only while a view is visible; a read without changes sends no update."""
    alice, bob = await two(lab)
    # a stall during a read shifts the computed deadline
    monkeypatch.setattr(stores_module, "SAME_DEADLINE_MS", float("inf"))
    stores, looks, updates = lab.stores((await alice.send(bob, "one")).id), list[int](), list[Any]()
    read = stores.read

    def counted() -> dict[str, Any]:
        looks.append(1)
        return read()

    stores.read = counted  # type: ignore[method-assign]
    stores.observe(updates.append, "model")
    await alice.http.patch(f"/api/messages/{stores.model['id']}", json={"text": "two"})
    assert (looks, updates) == ([], [])
    stores._handle_custom_msg({"views": 1}, [])
    await wait_until(lambda: len(looks) >= 3, "three looks")
    assert len(updates) == 1
    stores._handle_custom_msg({"views": -1}, [])
    await wait_until(
        lambda: not stores._visible.is_set(), "the widget to notice that its last view has gone"
    )
    async with lab.recording:  # a read that had already started has now ended
        count = len(looks)
    await asyncio.sleep(0.6)  # time for two reads, which must not happen
    assert len(looks) == count


# --- charts ---------------------------------------------------------------------------------------


async def test_a_chart_stays_small_and_exact() -> None:
    """10,000 values cause few updates of bounded size, and the last value is included.

    Median and p95 are computed from all values.
    """
    chart, updates, began = Chart("Reads", log=True), list[dict[str, Any]](), time.monotonic()
    chart.observe(lambda change: updates.append(change["new"]), "model")
    for number in range(1, 10_001):
        chart.add("from Redis", number / 100)
        chart.progress(number, 10_000)
    await wait_until(
        lambda: updates[-1]["progress"]["done"],
        "the last value",
        is_reached=lambda done: done == 10_000,
    )
    assert len(updates) <= (time.monotonic() - began) / MIN_UPDATE_INTERVAL_S + 2
    assert (round(chart.median("from Redis"), 3), round(chart.p95("from Redis"), 3)) == (
        50.005,
        95.0,
    )
    assert len(json.dumps(updates[-1])) < 60_000
    assert len(updates[-1]["sides"][0]["dots"]) == 240
    chart.close()


async def test_a_chart_shown_again_is_whole() -> None:
    """The snapshot is one complete picture, which the browser shows until a value is added."""
    chart = Chart("Reads <fast>", unit="ms")
    assert chart.snapshot() == "<p>Reads &lt;fast&gt;</p>\n"
    for value in (1, 2, 4):
        chart.add("A & B", value)
    chart.mark("The first read was cold.")
    bundle, _ = chart._repr_mimebundle_()
    assert (
        bundle["text/plain"]
        == "Reads <fast>\nA & B: 3 values, median 2.000 ms\nThe first read was cold."
    )
    assert re.fullmatch(r'<img class="measured" [^>]*>\n<p>.*</p>', bundle["text/html"], re.DOTALL)
    assert 'alt="Reads &lt;fast&gt;; A &amp; B: 3 values' in bundle["text/html"]
    picture = picture_of(chart)
    assert {"Reads <fast>", "A & B", "ms"} <= set(picture.itertext())
    assert len(list(picture.iter(f"{SVG}use"))) >= 3
    assert chart.model["picture"] in chart.snapshot()
    chart.add("A & B", 8)
    await wait_until(lambda: not chart.model["picture"], "the sketch of the four values")
    chart.close()


def picture_of(chart: Chart) -> ET.Element:
    """Return the SVG picture in the snapshot of a chart."""
    (data,) = re.findall(r"base64,([^\"]+)", chart.snapshot())
    return ET.fromstring(base64.b64decode(data))  # noqa: S314 - our own


async def test_one_outlier_leaves_room_for_the_others() -> None:
    """The slowest hundredth has no dot, and few values have no p95."""
    chart = Chart("Reads")
    for value in [*range(1, 100), 10_000]:
        chart.add("many", value)
    chart.add("few", 1)
    many, few = chart.sides()
    assert (many["dots"][-1], many["count"]) == (99, 100)
    assert (many["p95"], few["p95"]) == (pytest.approx(95.05), None)
    words = " ".join(picture_of(chart).itertext())
    assert "100 values, 1 above" in words
    chart.close()


async def test_lines_run_along_x() -> None:
    """The points of a line are sorted by x, whatever the order in which they were added."""
    chart = Chart("Length against time", x="messages", log=True)
    for x, y in ((1000, 5.0), (10, 1.0), (100, 2.0)):
        chart.point("from MongoDB", x, y)
    assert chart.sides() == [
        {"side": "from MongoDB", "count": 3, "points": [(10, 1), (100, 2), (1000, 5)]}
    ]
    paths = picture_of(chart).iter(f"{SVG}path")
    line = next(path for path in paths if COLOURS[0] in path.get("style", ""))
    places = [float(x) for x in re.findall(r"[ML] (\S+)", line.get("d", ""))]
    assert len(places) == 3
    assert places == sorted(places)
    assert repr(chart) == "Length against time\nfrom MongoDB: 3 points"
    with pytest.raises(ValueError, match="no measurement"):
        chart.point("from MongoDB", 1, float("nan"))
    chart.close()


# --- all widgets ----------------------------------------------------------------------------------


async def test_one_of_each_kind_is_alive(lab: Lab) -> None:
    """Showing a widget again closes the earlier one of its kind, and no other.

    Charts of different titles, and maps of different diagrams, are different kinds. An earlier
    `stores` widget stays visible, but is no longer updated.
    """
    alice, bob = await two(lab)
    trace = await alice.send(bob, "Hello")
    pairs: list[tuple[Live, Live]] = [
        (lab.flow_map(), lab.flow_map()),
        (lab.flow_map(of="read"), lab.flow_map(of="read")),
    ]
    pairs += [
        (lab.timeline(), lab.timeline()),
        (lab.ttl_board(), lab.ttl_board()),
        (lab.chat(alice, bob), lab.chat(alice, bob)),
    ]
    pairs += [(lab.chart("one"), lab.chart("one")), (lab.chart("two"), lab.chart("two"))]
    for former, latter in pairs:
        assert (former.comm is None, latter.comm is None) == (True, False)
        assert "0x" not in repr(latter)
    before, after = lab.stores(trace), lab.stores(trace)
    assert (before.resting, before.comm is None, after.resting) == (True, False, False)
    await wait_until(lambda: before.task and before.task.done(), "the former widget's task to end")


@pytest.mark.slow  # it draws every widget
async def test_widgets_stop_with_their_session(lab: Lab) -> None:
    """A reset stops the screens of its deleted users, but a board stays live.

    The end of the session stops all widgets, and they keep their last state. A board of the next
    session with that name closes the earlier one.
    """
    chat, board = await opened(lab), lab.ttl_board()
    await lab.reset()
    assert (chat.resting, board.resting) == (True, False)
    alice, bob = await two(lab)
    stores = lab.stores(await alice.send(bob, "anew"))
    await wait_until(lambda: board.model["items"], "a key on the board")
    await lab.end()
    assert [place["trouble"] for place in stores.read()["places"].values()] == [
        "no answer (SessionEnded)"
    ] * 3
    assert (board.resting, board.comm is None) == (True, False)
    again = await start(lab.name, **lab.start_settings)
    assert again.ttl_board().resting is False
    assert board.comm is None
    await again.end()
