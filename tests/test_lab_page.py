"""The page /lab in a real browser: what it lights, counts and turns is what the service really did."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from browsing import Desk, behind, browser
from live import PASSWORD, User
from playwright.async_api import Browser, Page, Route, expect
from shared_service import SharedService, start_shared_service
from starlette.requests import Request
from waiting import wait_until

from chatlab.errors import Forbidden
from chatlab.local.engines import Engines
from chatlab.web.projector_api import is_loopback, require_loopback

__all__ = ["browser"]  # a fixture
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # one event loop, so one browser, for all tests
    pytest.mark.timeout(400),  # a slow machine may use several of the generous limits in one test
]

SEND = ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
PROJECTOR: dict[str, Any] = {"viewport": {"width": 1280, "height": 720}}
WATCH_BOXES = """
    window.lit = [];
    const seen = (changes) => changes
        .filter(({ target, oldValue }) => target.classList.contains("cl-lit") && !/cl-lit/.test(oldValue))
        .forEach(({ target }) => lit.push(target.dataset.stage));
    const what = { attributeFilter: ["class"], attributeOldValue: true, subtree: true };
    new MutationObserver(seen).observe(document.querySelector(".p-send"), what);
"""
WATCH_KEYS = """
    window.states = {};  // of each key, in order
    const look = () => {
        const rows = [...document.querySelectorAll(".cl-key")].map((row) => [row.querySelector(".cl-name").textContent, row.dataset.state]);
        const now = new Map(rows);
        for (const key of new Set([...Object.keys(states), ...now.keys()])) {
            const state = now.get(key) ?? "removed";
            if ((states[key] ??= []).at(-1) !== state) states[key].push(state);
        }
    };
    const board = document.querySelector(".cl-keys");
    new MutationObserver(look).observe(board, { attributeFilter: ["data-state"], childList: true, subtree: true });
"""
PANES_DO_NOT_POLL = """
    if (new URLSearchParams(location.search).has("pane")) window.setInterval = () => 0;  // their reads would be counted, too
"""
LONG_TTL_S = 600  # no key expires while a slow test looks at it


@pytest.fixture(scope="module")
def home(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """The service that the page shows, with nobody in it but the people of this module."""
    with start_shared_service(engines, tmp_path_factory.mktemp("home") / "service.log", RATE_LIMIT="0") as shared:
        yield shared


@pytest_asyncio.fixture(loop_scope="module")
async def teacher(home: SharedService) -> AsyncIterator[User]:
    """The user who shows the page. The settings are restored afterwards, and the cache is emptied."""
    person = home.create_user()
    yield person
    await turn(person, cacheTtl=5, cacheMode="window")
    for key in [f"{home.prefix}{key}" for kind in ("message:*", "messages:*") for key in home.keys_of(kind)]:
        home.keys.delete(key)
    await person.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser, home: SharedService, teacher: User) -> AsyncIterator[Page]:
    """The page, open. Neither it nor its panes may ask for anything foreign or log a complaint."""
    desk = await Desk.at(browser, home.service.url, teacher, **PROJECTOR)
    await desk.context.add_init_script(PANES_DO_NOT_POLL)
    page = (await desk.open("lab")).page
    await settled(page)
    yield page
    await desk.is_clean()
    await desk.context.close()


async def settled(page: Page) -> None:
    """Wait until both panes are open, flow events arrive, and key presses reach the controls."""
    for name in ("Ada", "Ben"):
        await expect(page.frame_locator(f"iframe[title='The chat of {name}']").locator("textarea")).to_be_visible()
    await expect(page.locator(".p-beat")).to_contain_text("Beat")
    await expect(page.locator(".p-label")).to_be_empty()
    await page.wait_for_function("() => document.activeElement.tagName !== 'IFRAME'")


async def turn(person: User, **asked: object) -> httpx.Response:
    return await person.http.put("/api/lab/settings", json=asked)


async def number(page: Page, name: str) -> int:
    return int((await page.locator(f"[data-number={name}]").inner_text()).replace(",", ""))


async def test_each_bar_is_a_key_and_shrinks(stage: Page, home: SharedService, teacher: User) -> None:
    """A send shows two bars, of its message and of its conversation. Redis has both keys, and the bars get shorter."""
    await turn(teacher, cacheTtl=LONG_TTL_S)
    await stage.keyboard.press("h")
    names = stage.locator(".cl-key[data-state=live] .cl-name")
    await expect(names).to_have_count(2)
    keys = await names.all_inner_texts()
    assert home.keys.exists(*keys) == 2
    width = "parseFloat(document.querySelectorAll('.cl-fill')[1].style.width)"
    first = await stage.evaluate(width)
    await stage.wait_for_function(f"first => {width} < first", arg=first)
    assert 0 < await stage.evaluate(width) < first <= 100


async def test_a_bar_shows_the_end_of_its_key(stage: Page, home: SharedService) -> None:
    """The sweeper reports the end of a message's key, so its bar ends as gone. A conversation's bar just ends with its key."""
    await stage.evaluate(WATCH_KEYS)
    await stage.keyboard.press("h")
    ended = "() => Object.values(states).length === 2 && Object.values(states).every((told) => told.at(-1) === 'removed')"
    await stage.wait_for_function(ended)
    states = await stage.evaluate("states")
    (message,) = [told for key, told in states.items() if key.startswith(f"{home.prefix}message:")]
    (window,) = [told for key, told in states.items() if key.startswith(f"{home.prefix}messages:")]
    assert (message[0], message[-2:]) == ("live", ["gone", "removed"])
    assert window[0] == "live"
    assert "gone" not in window
    assert home.keys.exists(*states) == 0


async def test_a_send_lights_the_boxes_in_order(stage: Page) -> None:
    """A real message through either door lights its door and then each box, in the diagram's order, and stands in both panes."""
    await stage.evaluate(WATCH_BOXES)
    doors = [("Send by HTTP", "HTTP POST"), ("Send by WebSocket", "WebSocket event")]
    for count, (button, door) in enumerate(doors, 1):
        await stage.get_by_role("button", name=button).click()
        await expect(stage.locator(".p-send .cl-used")).to_contain_text(door)
        await expect(stage.locator(".p-send .cl-lit")).to_have_count(len(SEND))
        assert await stage.evaluate("lit.splice(0)") == SEND
        assert all(time.endswith(" ms") for time in await stage.locator(".p-send .cl-time").all_inner_texts())
        for pane in await stage.locator("iframe").all():
            await expect(pane.content_frame.locator("li.message")).to_have_count(count)
        await expect(stage.locator("[data-number=saves]")).to_have_text(str(count))


async def test_a_slow_class_is_labelled_and_real(stage: Page, home: SharedService, teacher: User) -> None:
    """A longer life holds for what is cached from now on, is said on every such page as long as it holds, and ends with a click."""
    await stage.keyboard.press("l")
    label = stage.locator(".p-label")
    await expect(label).to_have_text("SLOW CLASS: a key lives 20 s here, not 5 s")
    other = await stage.context.new_page()
    await other.goto(stage.url)
    await expect(other.locator(".p-label")).to_contain_text("SLOW CLASS")
    sent = await teacher.send(teacher, "slow")
    key = f"{home.prefix}message:{sent['_id']}"
    assert 5_000 < home.keys.pttl(key) <= 20_000
    await expect(stage.locator(".cl-key", has_text=key).locator(".cl-track")).to_have_attribute("aria-valuemax", "20")
    await stage.get_by_role("button", name="Usual speed").click()
    await expect(label).to_be_empty()
    await expect(other.locator(".p-label")).to_be_empty()
    again = await teacher.send(teacher, "usual")
    assert home.keys.pttl(f"{home.prefix}message:{again['_id']}") <= 5_000
    await other.close()


async def test_modes_are_the_services(stage: Page, home: SharedService, teacher: User) -> None:
    """Mode window reads from Redis, drawn asks MongoDB, off writes no key; and no window from before knows less than MongoDB after it."""
    await turn(teacher, cacheTtl=LONG_TTL_S)
    friend = home.create_user()
    await teacher.send(friend, "one")
    assert (await friend.read(teacher)).headers["x-cache"] == "hit"
    for mode in ("drawn", "off"):
        await stage.get_by_label(mode).check()
        await expect(stage.locator(".p-label")).to_contain_text(f"CACHE {mode.upper()}, not window")
        assert (await friend.read(teacher)).headers["x-cache"] == "bypass"
    hidden = await teacher.send(friend, "two")
    assert not home.keys.exists(f"{home.prefix}message:{hidden['_id']}")
    await stage.get_by_label("window").check()
    await expect(stage.locator(".p-label")).not_to_contain_text("CACHE")
    first, then = await friend.read(teacher), await friend.read(teacher)
    assert [message["text"] for message in first.json()] == [message["text"] for message in then.json()] == ["one", "two"]
    assert (first.headers["x-cache"], then.headers["x-cache"]) == ("miss", "hit")
    await expect(stage.locator("[data-number=bypass]")).to_have_text("2")
    await expect(stage.locator(".p-read .cl-skipped")).to_contain_text("Query MongoDB")
    await friend.close()


@pytest.mark.slow
async def test_a_burst_leaves_the_page_alive(stage: Page, teacher: User) -> None:
    """The page draws numbers during a burst of 500 messages. Only a few keys get rows; all others are counted, and drawn as cells."""
    await turn(teacher, cacheTtl=LONG_TTL_S)
    drawn = asyncio.Event()

    async def hold(route: Route) -> None:
        await drawn.wait()
        await route.continue_()

    await stage.route("**/api/messages/send", hold)  # the burst cannot end before the page has drawn a part of it
    await stage.get_by_role("button", name="Burst").click()
    await stage.wait_for_function("() => document.querySelector('[data-number=sends]').textContent !== '0'")
    assert 0 < await number(stage, "sends") < 500
    drawn.set()
    await expect(stage.locator("[data-number=sends]")).to_have_text("500")
    await expect(stage.locator(".p-last")).to_contain_text("Burst: 500 messages answered")
    await expect(stage.locator(".cl-more")).to_have_text(re.compile(r"^and \d+ more$"))
    assert await stage.locator(".cl-key").count() <= 7


async def test_a_stopped_picture_stands_still(stage: Page, teacher: User) -> None:
    """Paused, nothing moves and the service goes on; afterwards the page is where the service is."""
    await stage.keyboard.press("p")
    await expect(stage.locator(".p-label")).to_contain_text("PAUSED")
    before = await number(stage, "sends")
    await teacher.send(teacher, "unseen")
    await asyncio.sleep(0.4)  # time for two redraws, which must not happen
    assert await number(stage, "sends") == before
    await stage.keyboard.press("p")
    await expect(stage.locator("[data-number=sends]")).to_have_text(str(before + 1))


async def test_one_joins_behind_a_proxy(browser: Browser, home: SharedService) -> None:
    """Under a path prefix a newcomer signs up on the page itself and sees it live; no address ever holds a token."""
    async with behind(home.service, "/user/kim/proxy/8000/") as url:
        desk = await Desk.at(browser, url, **PROJECTOR)
        page = (await desk.open("lab")).page
        await page.get_by_role("button", name="Create an account").click()
        await page.get_by_label("User name").fill("kim")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create account").click()
        await settled(page)
        await page.keyboard.press("s")
        await expect(page.locator(".p-send .cl-lit")).to_have_count(len(SEND))
        stored = [json.loads(text)["token"] for text in await page.evaluate("Object.values(localStorage)")]
        assert len(stored) == 5
        assert not [asked for asked in desk.requests if any(token in asked for token in stored)]
        await desk.is_clean()
        await desk.context.close()


async def test_settings_are_checked(home: SharedService, teacher: User, tmp_path: Path) -> None:
    """A wrong value, nobody, and a process that is not alone with its cache are refused, and nothing is turned."""
    before = (await teacher.http.get("/api/lab/settings")).json()
    assert before == {"cacheTtl": 5, "cacheMode": "window", "usualTtl": 5, "usualMode": "window", "canTurn": True}
    for wrong in ({"cacheTtl": 0}, {"cacheTtl": "9"}, {"cacheTtl": 1e9}, {"cacheMode": "fast"}):
        assert (await turn(teacher, **wrong)).status_code == 422
    async with httpx.AsyncClient(base_url=home.service.url) as nobody:
        assert (await nobody.put("/api/lab/settings", json={"cacheMode": "off"})).status_code == 401
        assert (await nobody.get("/api/lab/keys")).status_code == 401
    with home.another_process(tmp_path / "second.log", KEY_PREFIX=home.prefix):
        address, headers = f"{home.service.url}/api/lab/settings", dict(teacher.http.headers)
        await wait_until(lambda: not httpx.get(address, headers=headers).json()["canTurn"], "the service to notice the second process")
        assert (await turn(teacher, cacheMode="off")).status_code == 409
        assert (await teacher.http.get("/api/lab/settings")).json() == before | {"canTurn": False}


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("::ffff:127.0.0.1", True)]
    + [(far, False) for far in ("10.0.0.7", "172.17.0.1", "::ffff:10.0.0.7", "2001:db8::1", "localhost.example", "")],
)
async def test_only_the_own_machine_turns(address: str, here: bool) -> None:
    """Settings are turned and keys are seen from the loopback alone: not from a neighbour, nor from what has no address."""
    request = Request({"type": "http", "client": (address, 1) if address else None})
    assert is_loopback(address) == here
    with contextlib.nullcontext() if here else pytest.raises(Forbidden):
        require_loopback(request)


async def test_it_is_there_only_with_the_flow(home: SharedService, tmp_path: Path) -> None:
    """Without CHATLAB_FLOW neither the page nor its addresses exist."""
    with home.another_process(tmp_path / "quiet.log", FLOW="0") as quiet:
        person = quiet.create_user()
        with contextlib.closing(httpx.Client(base_url=quiet.service.url, headers={"authorization": f"Bearer {person.token}"})) as http:
            for address in ("/lab", "/api/lab/settings", "/api/lab/keys"):
                assert http.get(address).status_code == 404
        await person.close()
