"""The page /lab in a real browser: what it lights, counts and turns is what the service really did."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from browsing import Desk, behind, browser
from house import House, open_house
from live import PASSWORD, Person, eventually
from playwright.async_api import Browser, Page, expect
from starlette.requests import Request

from chatlab.engines import Engines
from chatlab.errors import Forbidden
from chatlab.lab_api import is_here, must_be_here

__all__ = ["browser"]  # a fixture
pytestmark = pytest.mark.asyncio(loop_scope="module")  # one event loop, so one browser, for all of them

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
FRAMES = """
    new Promise((done) => {
        let frames = 0;
        const began = performance.now();
        const count = () => (++frames, performance.now() - began < 1000 ? requestAnimationFrame(count) : done(frames));
        requestAnimationFrame(count);
    })
"""


@pytest.fixture(scope="module")
def home(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The service that the page shows, with nobody in it but the people of this module."""
    with open_house(engines, tmp_path_factory.mktemp("home") / "service.log", RATE_LIMIT="0") as house:
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def teacher(home: House) -> AsyncIterator[Person]:
    """Somebody who shows the page. What they turned is turned back."""
    person = home.settle()
    yield person
    await turn(person, cacheTtl=5, cacheMode="window")
    await person.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser, home: House, teacher: Person) -> AsyncIterator[Page]:
    """The page, open; nothing foreign was asked for and nothing complained, in it or in its panes."""
    desk = await Desk.at(browser, home.service.url, teacher, **PROJECTOR)
    page = (await desk.open("lab")).page
    await settled(page)
    yield page
    await desk.is_clean()
    await desk.context.close()


async def settled(page: Page) -> None:
    """Both panes are there, the flow is heard, and the keys are the controls'."""
    for name in ("Ada", "Ben"):
        await expect(page.frame_locator(f"iframe[title='The chat of {name}']").locator("textarea")).to_be_visible()
    await expect(page.locator(".p-beat")).to_contain_text("Beat")
    await expect(page.locator(".p-label")).to_be_empty()


async def turn(person: Person, **asked: object) -> httpx.Response:
    return await person.http.put("/api/lab/settings", json=asked)


async def number(page: Page, name: str) -> int:
    return int((await page.locator(f"[data-number={name}]").inner_text()).replace(",", ""))


async def test_bars_run_from_full_to_gone(stage: Page, home: House) -> None:
    """Each bar is a key that Redis has: of the message, told as cleaned by the worker, and of the conversation, which just expires."""
    await stage.keyboard.press("h")
    names = stage.locator(".cl-key[data-state=live] .cl-name")
    await expect(names).to_have_count(2)
    keys = await names.all_inner_texts()
    assert all(home.keys.pttl(key) > 0 for key in keys)
    window, message = (stage.locator(".cl-key", has=stage.get_by_text(key, exact=True)) for key in keys)
    width = "key => document.querySelectorAll('.cl-fill')[1].getBoundingClientRect().width"
    first = await stage.evaluate(width)
    await stage.wait_for_function(f"first => ({width})() < 0.6 * first", arg=first)
    assert 0 < await stage.evaluate(width) < first
    await expect(message).to_have_attribute("data-state", "gone", timeout=8_000)
    await expect(window.or_(message)).to_have_count(0, timeout=8_000)
    assert home.keys.exists(*keys) == 0


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


async def test_a_slow_class_is_labelled_and_real(stage: Page, home: House, teacher: Person) -> None:
    """A longer life holds for what is cached from now on, is said on every such page as long as it holds, and ends with a click."""
    await stage.keyboard.press("l")
    label = stage.locator(".p-label")
    await expect(label).to_have_text("SLOW CLASS: a key lives 20 s here, not 5 s")
    other = await stage.context.new_page()
    await other.goto(stage.url)
    await expect(other.locator(".p-label")).to_contain_text("SLOW CLASS")
    sent = await teacher.send(teacher, "slow")
    key = f"{home.prefix}message:{sent['_id']}"
    assert 15_000 < home.keys.pttl(key) <= 20_000
    await expect(stage.locator(".cl-key", has_text=key).locator(".cl-left")).to_contain_text("1")  # 19.9, 19.8 ...
    await stage.get_by_role("button", name="Usual speed").click()
    await expect(label).to_be_empty()
    await expect(other.locator(".p-label")).to_be_empty()
    again = await teacher.send(teacher, "usual")
    assert home.keys.pttl(f"{home.prefix}message:{again['_id']}") <= 5_000
    await other.close()


async def test_modes_are_the_services(stage: Page, home: House, teacher: Person) -> None:
    """Mode window reads from Redis, drawn asks MongoDB, off writes no key; and no window from before knows less than MongoDB after it."""
    await turn(teacher, cacheTtl=60)
    friend = home.settle()
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


async def test_a_burst_leaves_the_page_smooth(stage: Page) -> None:
    """500 messages go through while the page keeps drawing; keys without a row of their own are counted and drawn."""
    await stage.get_by_role("button", name="Burst").click()
    await stage.wait_for_function("() => document.querySelector('[data-number=sends]').textContent > 30")
    assert await stage.evaluate(FRAMES) > 15
    await expect(stage.locator(".cl-more")).to_contain_text("more")
    await expect(stage.locator("[data-number=sends]")).to_have_text("500", timeout=20_000)
    await expect(stage.locator(".p-last")).to_contain_text("Burst: 500 messages answered")
    assert await stage.locator(".cl-key").count() <= 7


async def test_a_stopped_picture_stands_still(stage: Page, teacher: Person) -> None:
    """Paused, nothing moves and the service goes on; afterwards the page is where the service is."""
    await stage.keyboard.press("p")
    await expect(stage.locator(".p-label")).to_contain_text("PAUSED")
    before = await number(stage, "sends")
    await teacher.send(teacher, "unseen")
    await asyncio.sleep(0.4)  # long enough for two drawings of the numbers
    assert await number(stage, "sends") == before
    await stage.keyboard.press("p")
    await expect(stage.locator("[data-number=sends]")).to_have_text(str(before + 1))


async def test_one_joins_behind_a_proxy(browser: Browser, home: House) -> None:
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


async def test_settings_are_checked(home: House, teacher: Person, tmp_path: Path) -> None:
    """A wrong value, nobody, and a process that is not alone with its cache are refused, and nothing is turned."""
    before = (await teacher.http.get("/api/lab/settings")).json()
    assert before == {"cacheTtl": 5, "cacheMode": "window", "usualTtl": 5, "usualMode": "window", "canTurn": True}
    for wrong in ({"cacheTtl": 0}, {"cacheTtl": "9"}, {"cacheTtl": 1e9}, {"cacheMode": "fast"}):
        assert (await turn(teacher, **wrong)).status_code == 422
    async with httpx.AsyncClient(base_url=home.service.url) as nobody:
        assert (await nobody.put("/api/lab/settings", json={"cacheMode": "off"})).status_code == 401
        assert (await nobody.get("/api/lab/keys")).status_code == 401
    with home.annexe(tmp_path / "second.log", KEY_PREFIX=home.prefix):
        address, headers = f"{home.service.url}/api/lab/settings", dict(teacher.http.headers)
        await eventually(lambda: not httpx.get(address, headers=headers).json()["canTurn"])
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
    assert is_here(address) == here
    with contextlib.nullcontext() if here else pytest.raises(Forbidden):
        must_be_here(request)


async def test_it_is_there_only_with_the_flow(home: House, tmp_path: Path) -> None:
    """Without CHATLAB_FLOW neither the page nor its addresses exist."""
    with home.annexe(tmp_path / "quiet.log", FLOW="0") as quiet:
        person = quiet.settle()
        with contextlib.closing(httpx.Client(base_url=quiet.service.url, headers={"authorization": f"Bearer {person.token}"})) as http:
            for address in ("/lab", "/api/lab/settings", "/api/lab/keys"):
                assert http.get(address).status_code == 404
        await person.close()
