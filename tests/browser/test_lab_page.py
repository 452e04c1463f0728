"""The page /lab in a real browser: it draws what the service really does."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from browsing import BrowserSession, browser, reverse_proxy, shared
from http_clients import fetch, open_client
from live import PASSWORD, User
from playwright.async_api import Browser, Page, Route, expect
from shared_service import SharedService
from starlette.requests import Request
from waiting import wait_until

from chatlab.errors import Forbidden
from chatlab.web.dependencies import client_address
from chatlab.web.projector_api import is_loopback, require_loopback

__all__ = ["browser", "shared"]  # fixtures
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
    if (new URLSearchParams(location.search).has("pane")) window.setInterval = () => 0;  // the page would count their reads too
"""
LONG_TTL_S = 600  # no key expires while a slow test looks at it


@pytest_asyncio.fixture(loop_scope="module")
async def teacher(shared: SharedService) -> AsyncIterator[User]:
    """The user who opens the page.

    The settings are restored afterwards, and the cache is emptied.
    """
    user = shared.create_user()
    yield user
    await change_settings(user, cacheTtl=5, cacheMode="window")
    for key in [
        f"{shared.prefix}{key}"
        for kind in ("message:*", "messages:*")
        for key in shared.keys_of(kind)
    ]:
        shared.keys.delete(key)
    await user.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser, shared: SharedService, teacher: User) -> AsyncIterator[Page]:
    """The open page.

    Neither it nor its panes may send a request to another server or log an error.
    """
    session = await BrowserSession.start(browser, shared.service.url, teacher, **PROJECTOR)
    await session.context.add_init_script(PANES_DO_NOT_POLL)
    page = (await session.open("lab")).page
    await wait_until_ready(page)
    yield page
    await session.assert_clean()
    await session.context.close()


async def wait_until_ready(page: Page) -> None:
    """Wait until both panes are open, flow events arrive, and key presses reach the controls."""
    for name in ("Ada", "Ben"):
        await expect(
            page.frame_locator(f"iframe[title='The chat of {name}']").locator("textarea")
        ).to_be_visible()
    await expect(page.locator(".p-sweeps")).to_contain_text("Sweep")
    await expect(page.locator(".p-label")).to_be_empty()
    await page.wait_for_function("() => document.activeElement.tagName !== 'IFRAME'")


async def change_settings(user: User, **settings: object) -> httpx.Response:
    return await user.http.put("/api/lab/settings", json=settings)


async def number(page: Page, name: str) -> int:
    return int((await page.locator(f"[data-number={name}]").inner_text()).replace(",", ""))


async def test_each_bar_is_a_key_and_shrinks(
    stage: Page, shared: SharedService, teacher: User
) -> None:
    """A send shows two bars, one for its message and one for its conversation.

    Redis has both keys, and the bars shrink.
    """
    await change_settings(teacher, cacheTtl=LONG_TTL_S)
    await stage.keyboard.press("h")
    names = stage.locator(".cl-key[data-state=live] .cl-name")
    await expect(names).to_have_count(2)
    keys = await names.all_inner_texts()
    assert shared.keys.exists(*keys) == 2
    width = "parseFloat(document.querySelectorAll('.cl-fill')[1].style.width)"
    first = await stage.evaluate(width)
    await stage.wait_for_function(f"first => {width} < first", arg=first)
    assert 0 < await stage.evaluate(width) < first <= 100


async def test_a_bar_shows_the_end_of_its_key(stage: Page, shared: SharedService) -> None:
    """The sweeper reports the expiry of a message entry, so its bar ends as "gone".

    A window's bar ends with its key.
    """
    await stage.evaluate(WATCH_KEYS)
    await stage.keyboard.press("h")
    ended = "() => Object.values(states).length === 2 && Object.values(states).every((history) => history.at(-1) === 'removed')"
    await stage.wait_for_function(ended)
    states = await stage.evaluate("states")
    (message,) = [
        history for key, history in states.items() if key.startswith(f"{shared.prefix}message:")
    ]
    (window,) = [
        history for key, history in states.items() if key.startswith(f"{shared.prefix}messages:")
    ]
    assert (message[0], message[-2:]) == ("live", ["gone", "removed"])
    assert window[0] == "live"
    assert "gone" not in window
    assert shared.keys.exists(*states) == 0


async def test_a_send_lights_the_boxes_in_order(stage: Page) -> None:
    """A message lights its transport and then each box in order, and appears in both panes."""
    await stage.evaluate(WATCH_BOXES)
    transports = [("Send by HTTP", "HTTP POST"), ("Send by WebSocket", "WebSocket event")]
    for count, (button, transport) in enumerate(transports, 1):
        await stage.get_by_role("button", name=button).click()
        await expect(stage.locator(".p-send .cl-used")).to_contain_text(transport)
        await expect(stage.locator(".p-send .cl-lit")).to_have_count(len(SEND))
        assert await stage.evaluate("lit.splice(0)") == SEND
        assert all(
            time.endswith(" ms")
            for time in await stage.locator(".p-send .cl-time").all_inner_texts()
        )
        for pane in await stage.locator("iframe").all():
            await expect(pane.content_frame.locator("li.message")).to_have_count(count)
        await expect(stage.locator("[data-number=saves]")).to_have_text(str(count))


async def test_a_slow_class_is_labelled_and_real(
    stage: Page, shared: SharedService, teacher: User
) -> None:
    """A longer TTL applies to new keys.

    Every such page shows it while it applies, and a click restores the usual TTL.
    """
    await stage.keyboard.press("l")
    label = stage.locator(".p-label")
    await expect(label).to_have_text("SLOW CLASS: the TTL is 20 s, not 5 s")
    other = await stage.context.new_page()
    await other.goto(stage.url)
    await expect(other.locator(".p-label")).to_contain_text("SLOW CLASS")
    sent = await teacher.send(teacher, "slow")
    key = f"{shared.prefix}message:{sent['_id']}"
    assert 5_000 < shared.keys.pttl(key) <= 20_000
    await expect(stage.locator(".cl-key", has_text=key).locator(".cl-track")).to_have_attribute(
        "aria-valuemax", "20"
    )
    await stage.get_by_role("button", name="Usual speed").click()
    await expect(label).to_be_empty()
    await expect(other.locator(".p-label")).to_be_empty()
    again = await teacher.send(teacher, "usual")
    assert shared.keys.pttl(f"{shared.prefix}message:{again['_id']}") <= 5_000
    await other.close()


async def test_the_cache_mode_applies_to_the_service(
    stage: Page, shared: SharedService, teacher: User
) -> None:
    """Mode `window` reads from Redis, `drawn` reads from MongoDB, `off` writes no key.

    No window from before is stale afterwards.
    """
    await change_settings(teacher, cacheTtl=LONG_TTL_S)
    friend = shared.create_user()
    await teacher.send(friend, "one")
    assert (await friend.read(teacher)).headers["x-cache"] == "hit"
    for mode in ("drawn", "off"):
        await stage.get_by_label(mode).check()
        await expect(stage.locator(".p-label")).to_contain_text(f"CACHE {mode.upper()}, not window")
        assert (await friend.read(teacher)).headers["x-cache"] == "bypass"
    hidden = await teacher.send(friend, "two")
    assert not shared.keys.exists(f"{shared.prefix}message:{hidden['_id']}")
    await stage.get_by_label("window").check()
    await expect(stage.locator(".p-label")).not_to_contain_text("CACHE")
    # The window lacks what was sent in mode `off`: the first read removes it, the next one fills it.
    first, _, then = [await friend.read(teacher) for _ in range(3)]
    assert (
        [message["text"] for message in first.json()]
        == [message["text"] for message in then.json()]
        == ["one", "two"]
    )
    assert (first.headers["x-cache"], then.headers["x-cache"]) == ("miss", "hit")
    await expect(stage.locator("[data-number=bypass]")).to_have_text("2")
    await expect(stage.locator(".p-read .cl-skipped")).to_contain_text("Query MongoDB")
    await friend.close()


@pytest.mark.slow
async def test_the_page_keeps_drawing_during_a_burst(stage: Page, teacher: User) -> None:
    """The counters change during a burst of 500 messages.

    Only a few keys get rows; the others are counted and drawn as cells.
    """
    await change_settings(teacher, cacheTtl=LONG_TTL_S)
    drawn = asyncio.Event()

    async def hold(route: Route) -> None:
        await drawn.wait()
        await route.continue_()

    # The burst must not end before the page has drawn a part of it.
    await stage.route("**/api/messages/send", hold)
    await stage.get_by_role("button", name="Burst").click()
    await stage.wait_for_function(
        "() => document.querySelector('[data-number=sends]').textContent !== '0'"
    )
    assert 0 < await number(stage, "sends") < 500
    drawn.set()
    await expect(stage.locator("[data-number=sends]")).to_have_text("500")
    await expect(stage.locator(".p-last")).to_contain_text("Burst: 500 messages answered")
    await expect(stage.locator(".cl-more")).to_have_text(re.compile(r"^and \d+ more$"))
    assert await stage.locator(".cl-key").count() <= 7


async def test_a_paused_page_does_not_change(stage: Page, teacher: User) -> None:
    """While it is paused, the page does not change and the service keeps running.

    Afterwards the page is up to date.
    """
    await stage.keyboard.press("p")
    await expect(stage.locator(".p-label")).to_contain_text("PAUSED")
    before = await number(stage, "sends")
    await teacher.send(teacher, "unseen")
    await asyncio.sleep(0.4)  # time for two redraws, which must not happen
    assert await number(stage, "sends") == before
    await stage.keyboard.press("p")
    await expect(stage.locator("[data-number=sends]")).to_have_text(str(before + 1))


async def test_a_new_user_joins_behind_a_proxy(browser: Browser, shared: SharedService) -> None:
    """Under a path prefix, a new user signs up on the page and sees the live diagram.

    No URL contains a token.
    """
    async with reverse_proxy(shared.service, "/user/kim/proxy/8000/") as url:
        session = await BrowserSession.start(browser, url, **PROJECTOR)
        page = (await session.open("lab")).page
        await page.get_by_role("button", name="Create an account").click()
        await page.get_by_label("User name").fill("kim")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create account").click()
        await wait_until_ready(page)
        await page.keyboard.press("s")
        await expect(page.locator(".p-send .cl-lit")).to_have_count(len(SEND))
        items = await page.evaluate("Object.entries(localStorage)")
        stored = [json.loads(text)["token"] for key, text in items if key.startswith("chatlab ")]
        assert len(stored) == 5
        assert not [url for url in session.requests if any(token in url for token in stored)]
        await session.assert_clean()
        await session.context.close()


async def test_settings_are_checked(shared: SharedService, teacher: User, tmp_path: Path) -> None:
    """Wrong values, missing tokens and changes in a shared cache are rejected."""
    before = (await teacher.http.get("/api/lab/settings")).json()
    assert before == {
        "cacheTtl": 5,
        "cacheMode": "window",
        "usualTtl": 5,
        "usualMode": "window",
        "canTurn": True,
    }
    for wrong in ({"cacheTtl": 0}, {"cacheTtl": "9"}, {"cacheTtl": 1e9}, {"cacheMode": "fast"}):
        assert (await change_settings(teacher, **wrong)).status_code == 422
    async with open_client(shared.service.url) as stranger:
        assert (
            await stranger.put("/api/lab/settings", json={"cacheMode": "off"})
        ).status_code == 401
        assert (await stranger.get("/api/lab/keys")).status_code == 401
    with shared.another_process(tmp_path / "second.log", KEY_PREFIX=shared.prefix):
        address, headers = f"{shared.service.url}/api/lab/settings", dict(teacher.http.headers)
        await wait_until(
            lambda: not fetch(address, headers=headers).json()["canTurn"],
            "the service to notice the second process",
        )
        assert (await change_settings(teacher, cacheMode="off")).status_code == 409
        assert (await teacher.http.get("/api/lab/settings")).json() == before | {"canTurn": False}


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("::ffff:127.0.0.1", True)]
    + [
        (far, False)
        for far in (
            "10.0.0.7",
            "172.17.0.1",
            "::ffff:10.0.0.7",
            "2001:db8::1",
            "localhost.example",
            "",
        )
    ],
)
async def test_only_the_own_machine_may_change_settings(address: str, here: bool) -> None:
    """Only clients on the loopback interface may change settings and see keys."""
    request = Request({"type": "http", "client": (address, 1) if address else None})
    assert is_loopback(address) == here
    with contextlib.nullcontext() if here else pytest.raises(Forbidden):
        await require_loopback(await client_address(request))


async def test_the_page_exists_only_with_the_flow(shared: SharedService, tmp_path: Path) -> None:
    """Without CHATLAB_FLOW, neither the page nor its API exists."""
    with shared.another_process(tmp_path / "quiet.log", FLOW="0") as quiet:
        user = quiet.create_user()
        with contextlib.closing(
            httpx.Client(
                base_url=quiet.service.url, headers={"authorization": f"Bearer {user.token}"}
            )
        ) as http:
            for address in ("/lab", "/api/lab/settings", "/api/lab/keys"):
                assert http.get(address).status_code == 404
        await user.close()
