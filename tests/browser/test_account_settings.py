"""Accounts on the chat page: settings, muted and blocked users, and browsers with rules of their own."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from browsing import FLAGS, LIMIT_MS, PHONE, Tab, browser, shared
from find_browser import chromium_path
from live import PASSWORD, User
from playwright.async_api import Locator, Page, async_playwright, expect
from shared_service import SharedService
from test_chat_page import (
    CONTRAST,
    NAMELESS,
    REFUSED,
    BrowserOpener,
    UserMaker,
    create_users,
    open_browser,
)

from chatlab.sessions import hash_token

__all__ = ["browser", "create_users", "open_browser", "shared"]  # fixtures
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # one event loop, so one browser, for all tests
    pytest.mark.timeout(400),  # a slow machine may use several of the generous limits in one test
]

NEW_PASSWORD = "another horse battery"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)  # quick to verify
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1"
)
# The dialogs and their buttons that have no border.
BORDERLESS = """() => [...document.querySelectorAll("dialog, .primary, .secondary, .danger")].filter((node) =>
    node.checkVisibility() && getComputedStyle(node).borderTopStyle === "none").map((node) => node.textContent)"""


def give_password(shared: SharedService, user: User) -> None:
    """Give the user the password PASSWORD."""
    shared.database["users"].update_one({"_id": user.id}, {"$set": {"passwordHash": HASH}})


def give_session(shared: SharedService, user: User, token: str, agent: str) -> None:
    """Give the user one more session."""
    sessions = shared.database["sessions"]
    known = sessions.find_one({"userId": user.id}) or {}
    sessions.insert_one(known | {"_id": hash_token(token), "userAgent": agent})


async def open_settings(tab: Tab) -> Page:
    """Open the account settings."""
    await tab.page.get_by_role("button", name="Account settings").click()
    await expect(tab.page.get_by_role("dialog", name="Account settings")).to_be_visible()
    return tab.page


def part(page: Page, title: str) -> Locator:
    """Return a part of the account settings."""
    return page.locator("dialog section").filter(has=page.get_by_role("heading", name=title))


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_name_can_be_changed(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The list shows it at once, also in another tab, and after a reload. Others see it too."""
    ann, bob = create_users("ann", "bob")
    here = await open_browser(ann, ignore=(REFUSED,))
    tab, other = await here.open(), await here.open()
    page = await open_settings(tab)
    await page.get_by_label("Your name").fill("\u200b\u2060")
    await page.get_by_role("button", name="Save name").click()
    problem = "The name should have at least 1 character that can be seen."
    await expect(part(page, "Name").get_by_role("alert")).to_have_text(problem)
    await page.get_by_label("Your name").fill("Ann \u202eB.\u200b")
    await page.get_by_role("button", name="Save name").click()
    await expect(part(page, "Name").get_by_role("status")).to_have_text(
        "Your name has been changed."
    )
    await expect(page.get_by_label("Your name")).to_have_value("Ann B.")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    for one in (tab, other):
        await expect(one.page.locator(".me strong")).to_have_text("Ann B.")
    await page.reload()
    await expect(page.locator(".me strong")).to_have_text("Ann B.")
    away = await (await open_browser(bob)).open()
    await expect(away.row(ann).locator(".name")).to_have_text("Ann B.")


@pytest.mark.slow  # the tests of the API cover the service
async def test_the_password_can_be_changed(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """A password can be shown while it is typed. The change ends the other sessions."""
    [ann] = create_users("ann")
    give_password(shared, ann)
    give_session(shared, ann, "another token", IPHONE)
    page = await open_settings(await (await open_browser(ann, ignore=(REFUSED,))).open())
    new = page.get_by_label("New password")
    await page.get_by_label("Current password").fill("a wrong guess")
    await new.fill("Password123")
    await expect(new).to_have_attribute("type", "password")
    show = page.get_by_role("button", name="Show new password")
    await show.click()
    await expect(new).to_have_attribute("type", "text")
    await expect(show).to_have_attribute("aria-pressed", "true")
    problem = part(page, "Password").get_by_role("alert")
    for password, text in (
        ("Password123", "The new password should not be one of the most common passwords"),
        (NEW_PASSWORD, "The current password is wrong."),
    ):
        await new.fill(password)
        await page.get_by_role("button", name="Change password").click()
        await expect(problem).to_contain_text(text)
        await expect(new).to_have_attribute("type", "password")
    await page.get_by_label("Current password").fill(PASSWORD)
    await page.get_by_role("button", name="Change password").click()
    await expect(part(page, "Password").get_by_role("status")).to_have_text(
        "Your password has been changed. All other sessions have ended."
    )
    await expect(problem).to_be_hidden()
    await expect(new).to_have_value("")
    assert shared.database["sessions"].count_documents({"userId": ann.id}) == 1


@pytest.mark.slow
async def test_sessions_can_be_ended(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """The list names the programs. An open page of an ended session leads to the log-in."""
    [ann] = create_users("ann")
    for token, agent in (("t1", IPHONE), ("t2", "python-httpx/0.28"), ("t3", "\u202ebot")):
        give_session(shared, ann, token, agent)
    tab = await (await open_browser(ann)).open()
    page = await open_settings(tab)
    rows = part(page, "Sessions").locator("li")
    await expect(rows).to_have_count(4)
    await expect(rows.filter(has_text="this session")).to_have_count(1)
    await expect(rows.filter(has_text="this session").get_by_role("button")).to_have_count(0)
    phone = rows.filter(has_text="Safari on iOS")
    await phone.get_by_role("button", name="Log out the session of Safari on iOS").click()
    await expect(rows).to_have_count(3)
    await expect(rows.filter(has_text="python-httpx")).to_contain_text("Logged in")
    await page.get_by_role("button", name="Log out everywhere else").click()
    await expect(rows).to_have_count(1)
    await expect(page.get_by_role("button", name="Log out everywhere else")).to_be_hidden()
    await ann.http.delete(f"/api/auth/sessions/{hash_token(ann.token)}")
    await expect(page.get_by_role("alert")).to_have_text("Your session has ended. Log in again.")
    await expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.slow
async def test_the_account_can_be_deleted(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """The page says what happens to the messages, and asks for the password. All tabs log out."""
    [ann] = create_users("ann")
    give_password(shared, ann)
    here = await open_browser(ann, ignore=(REFUSED,))
    tab, other = await here.open_conversation(ann), await here.open()
    page = await open_settings(tab)
    deletion = part(page, "Delete account")
    await expect(deletion).to_contain_text(
        f"Your messages stay in the conversations of the people you wrote to, under @{ann.id}."
    )
    await expect(deletion).to_contain_text("Nobody can sign up with this user name again")
    await deletion.get_by_role("button", name="Delete account…").click()
    field = deletion.get_by_label("Password")
    await expect(field).to_be_focused()
    await field.fill("a wrong guess")
    await page.keyboard.press("Enter")
    await expect(deletion.get_by_role("alert")).to_have_text("The current password is wrong.")
    await field.fill(PASSWORD)
    await deletion.get_by_role("button", name="Delete my account").click()
    await expect(page.get_by_role("alert")).to_have_text("Your account has been deleted.")
    assert page.url == here.url
    await expect(other.page.get_by_label("User name")).to_be_visible()


@pytest.mark.slow
async def test_a_conversation_with_a_deleted_account_can_only_be_read(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """The handle stays, so that it is clear whose messages they were."""
    ann, bob = create_users("ann", "bob")
    give_password(shared, ann)
    await ann.send(bob, "my last message")
    answer = await ann.http.request("DELETE", "/api/auth/me", json={"password": PASSWORD})
    assert answer.status_code == 204
    tab = await (await open_browser(bob)).open_conversation(ann)
    await expect(tab.page.locator(".bar .named")).to_have_text(f"Deleted user@{ann.id}")
    await expect(tab.message("my last message")).to_be_visible()
    await expect(tab.page.get_by_text("This account has been deleted.")).to_be_visible()
    await expect(tab.page.locator("textarea")).to_be_hidden()
    await expect(tab.page.get_by_role("button", name="Block")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_settings_can_be_read_and_used_by_everybody(
    open_browser: BrowserOpener, create_users: UserMaker, scheme: str
) -> None:
    """They have contrast and names, fit a phone, and leave the focus where it was.

    With the user's own colours, which have no backgrounds, borders show what belongs together.
    """
    [ann] = create_users("ann")
    tab = await (await open_browser(ann, color_scheme=scheme, **PHONE)).open()
    page = await open_settings(tab)
    await expect(page.get_by_role("button", name="Close")).to_be_focused()
    await page.get_by_role("button", name="Delete account…").click()
    await expect(part(page, "Sessions").locator("li")).to_have_count(1)
    assert await page.evaluate(CONTRAST) == []
    assert await page.evaluate(NAMELESS) == []
    assert await page.locator("dialog").evaluate("(node) => node.scrollWidth <= node.clientWidth")
    await page.emulate_media(forced_colors="active")
    assert await page.evaluate(BORDERLESS) == []
    await page.get_by_role("button", name="Close").click()
    await expect(page.get_by_role("button", name="Account settings")).to_be_focused()


# --- other users ----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_muted_user_causes_no_notices(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """Messages arrive and are counted in the list, but neither in the title nor read aloud."""
    ann, bob, eve = create_users("ann", "bob", "eve")
    tab = await (await open_browser(ann)).open_conversation(bob)
    mute = tab.page.get_by_role("button", name="Mute", exact=True)
    await mute.click()
    await expect(mute).to_have_attribute("aria-pressed", "true")
    await expect(tab.row(bob).locator(".sign")).to_have_attribute("title", "muted")
    await tab.page.goto(tab.page.url.partition("#")[0] + "#")
    await bob.send(ann, "psst")
    await expect(tab.row(bob).locator(".badge")).to_contain_text("1")
    await eve.send(ann, "hello")
    await expect(tab.page).to_have_title("(1) chatlab")
    await expect(tab.page.locator("#announcer")).to_contain_text("New message from Eve-")
    await expect(tab.page.locator("#announcer")).not_to_contain_text("Bob-")
    await tab.open_conversation(bob)
    await expect(tab.message("psst")).to_be_visible()
    await mute.click()
    await expect(mute).to_have_attribute("aria-pressed", "false")
    await expect(tab.row(bob).locator(".sign")).to_be_hidden()


@pytest.mark.slow  # the tests of the API cover the service
async def test_a_blocked_user_reaches_nobody(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The page asks first, and offers to unblock. For the blocked user the message is not sent."""
    a, b = create_users("ann", "bob")
    await b.send(a, "hello")
    ann = await (await open_browser(a)).open_conversation(b)
    bob = await (await open_browser(b)).open_conversation(a)
    await ann.page.locator("textarea").fill("a draft")
    block = ann.page.get_by_role("button", name="Block", exact=True)
    await block.click()
    await ann.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(ann.page.locator("textarea")).to_be_visible()
    await block.click()
    await ann.page.get_by_role("dialog").get_by_role("button", name="Block").click()
    await expect(ann.page.locator(".closed")).to_contain_text("You have blocked Bob-")
    await expect(ann.page.locator("textarea")).to_be_hidden()
    await expect(ann.row(b).locator(".sign")).to_have_attribute("title", "blocked")

    await bob.write("are you there?")
    await expect(bob.message("are you there?").get_by_role("alert")).to_contain_text(
        "Not sent. There is no such user."
    )
    assert await ann.texts() == ["hello"]
    await ann.page.get_by_role("button", name="Unblock").click()
    await expect(ann.page.locator("textarea")).to_have_value("a draft")
    await bob.page.get_by_role("button", name="Try again").click()
    await expect(ann.message("are you there?")).to_be_visible()


SEARCHES = {
    "zoe": "Zoë Nuñez",
    "NUNEZ": "Zoë Nuñez",
    "zoë": "Zoe\u0308",
    "luk": "Łukasz",
    "bjorn": "Bjørn",
    "eve": "E\u200bve",
}


async def test_users_are_found_without_accents_and_capitals(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """The user who searches has another keyboard than the one who chose the name."""
    ann, *others = create_users("ann", *(f"x{number}" for number in range(len(SEARCHES))))
    for other, name in zip(others, SEARCHES.values(), strict=True):
        change = {"$set": {"displayName": f"{name} {other.id}"}}
        shared.database["users"].update_one({"_id": other.id}, change)
    tab = await (await open_browser(ann)).open()
    for other, search in zip(others, SEARCHES, strict=True):
        await tab.page.get_by_label("Find a user").fill("no such user")
        await expect(tab.page.locator(".contacts li")).to_have_count(0)
        await tab.page.get_by_label("Find a user").fill(search)
        await expect(tab.row(other)).to_be_visible()
        await expect(tab.row(ann)).to_have_count(0)


# --- keyboards and browsers -----------------------------------------------------------------------

PRESS_ENTER = """(node, how) => node.dispatchEvent(
    new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...how }))"""


async def test_the_enter_of_an_input_method_does_not_send(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """It only chooses a word. Browsers mark it by `isComposing`, or by the key code 229 alone."""
    ann, bob = create_users("ann", "bob")
    tab = await (await open_browser(ann)).open_conversation(bob)
    field = tab.page.locator("textarea")
    await field.fill("こんにちは")
    for how in ({"keyCode": 229}, {"keyCode": 13, "isComposing": True}):
        assert await field.evaluate(PRESS_ENTER, how)  # the default action is not prevented
        await expect(field).to_have_value("こんにちは")
    await expect(tab.messages).to_have_count(0)
    assert not await field.evaluate(PRESS_ENTER, {"keyCode": 13})
    await expect(tab.message("こんにちは")).to_be_visible()


async def test_a_text_that_nobody_can_see_cannot_be_sent(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The button stays disabled, as for an empty text."""
    ann, bob = create_users("ann", "bob")
    tab = await (await open_browser(ann)).open_conversation(bob)
    for text, is_disabled in (("\u200b\u2060 \u3164", True), ("\u200bx", False), ("\ufe0f", True)):
        await tab.page.locator("textarea").fill(text)
        await expect(tab.page.get_by_role("button", name="Send")).to_be_enabled(
            enabled=not is_disabled
        )


@contextlib.asynccontextmanager
async def browser_without_site_data(folder: Path) -> AsyncIterator[Page]:
    """Start a Chromium whose user has blocked all site data, and yield a page."""
    preferences = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (folder / "Default").mkdir()
    (folder / "Default" / "Preferences").write_text(json.dumps(preferences))
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            folder, executable_path=chromium_path(), args=FLAGS
        )
        context.set_default_timeout(LIMIT_MS)
        yield context.pages[0]
        await context.close()


@pytest.mark.slow
async def test_a_browser_that_blocks_site_data_works_until_it_is_closed(
    create_users: UserMaker, shared: SharedService, tmp_path: Path
) -> None:
    """Logging in, writing and logging out work. Only a reload asks for the password again."""
    ann, bob = create_users("ann", "bob")
    give_password(shared, ann)
    async with browser_without_site_data(tmp_path) as page:
        errors: list[Any] = []
        page.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108 - Playwright marks the function
        await page.goto(shared.service.url)
        assert (
            await page.evaluate("() => { try { localStorage } catch ({ name }) { return name } }")
            == "SecurityError"
        )
        tab = Tab(page)
        await log_in(page, ann)
        await tab.open_conversation(bob)
        await tab.write("hello")
        await expect(tab.message("hello").locator(".status.sent")).to_be_visible()
        await page.get_by_role("button", name="Log out").click()
        await log_in(page, ann)
        await expect(page.locator(".me")).to_contain_text(ann.id)
        await page.reload()
        await expect(page.get_by_label("Password")).to_be_visible()
        assert errors == []


async def log_in(page: Page, user: User) -> None:
    """Fill in and send the form."""
    await page.get_by_label("User name").fill(user.id)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
