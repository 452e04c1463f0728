"""The pages in a real Chromium: on a slow network, with a long conversation, and during a burst."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from benchmarks.environment import Environment
from benchmarks.processes import Server
from benchmarks.result import Check, MeasurementError, Result
from benchmarks.users import BenchUser, insert_conversation, make_users

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MISSING_BROWSER = "No Chromium was found: python tests/find_browser.py installs one."
LIMIT_MS = 120_000  # for anything that a page waits for

LATENCY_MS, KILOBITS = 400, 400
MAX_VIEW_MS = 1_500
LONG, SHORT = 5_000, 400  # messages
KEYSTROKES, SCROLLS = 100, 60
MAX_KEYSTROKE_MS = 16
BURST, FRAMES = 500, 58  # of 60 frames a second, so that one late frame is no failure
LAB_KEY = "key-of-the-benchmarks"

# Note when a page shows these elements for the first time, in milliseconds since it was opened.
NOTE = """
    window.seenAt = {};
    const wanted = { form: "form [name=username]", name: ".me strong", list: ".contacts li + li" };
    const look = () => {
        for (const [name, selector] of Object.entries(wanted))
            if (!(name in seenAt) && document.querySelector(selector)) {
                seenAt[name] = null;
                requestAnimationFrame(() => setTimeout(() => { seenAt[name] = performance.now(); }));
            }
    };
    new MutationObserver(look).observe(document, { childList: true, subtree: true });
"""
COUNT_FRAMES = """(ms) => new Promise((done) => {
    const times = [];
    const frame = (now) => {
        times.push(now);
        if (now - times[0] < ms) requestAnimationFrame(frame);
        else done({ rate: (1000 * (times.length - 1)) / (now - times[0]), slowest: Math.max(...times.slice(1).map((time, place) => time - times[place])) });
    };
    requestAnimationFrame(frame);
})"""


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a Chromium, and close it after the block."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except PlaywrightError as error:
            raise MeasurementError(MISSING_BROWSER) from error
        with contextlib.closing(browser):
            yield browser


def open_context(browser: Browser, server: Server, user: BenchUser | None = None) -> BrowserContext:
    """Return a new browser without anything stored, except the session of this user."""
    stored = []
    if user:
        session = {"token": user.token, "user": {"id": user.id, "displayName": user.id}}
        stored = [{"name": "chatlab / ", "value": json.dumps(session)}]
    state: Any = {"cookies": [], "origins": [{"origin": server.url, "localStorage": stored}]}
    context = browser.new_context(storage_state=state, viewport={"width": 1920, "height": 1080})
    context.set_default_timeout(LIMIT_MS)
    context.add_init_script(NOTE)
    return context


# --- the first view -----------------------------------------------------------------------------


def measure_first_view(environment: Environment) -> Result:
    """Measure when a page shows what people wait for, on a slow network."""
    server = environment.chatlab(users=make_users(20))
    views: dict[str, list[float]] = {}
    with open_browser() as browser:
        for _ in range(environment.rounds):
            stranger = open_context(browser, server)
            note(views, "log-in form", view(stranger, server, "form"))
            user = open_context(browser, server, server.users[0])
            note(views, "own name, first visit", view(user, server, "name"))
            note(views, "conversations, later visit", view(user, server, "list"))
            stranger.close()
            user.close()
    checks = [
        Check(f"{name}, ms", times, MAX_VIEW_MS, at_least=False) for name, times in views.items()
    ]
    settings = {"latency": f"{LATENCY_MS} ms", "network": f"{KILOBITS} kbit/s"}
    return Result("ms", views, checks, settings, [])


def view(context: BrowserContext, server: Server, element: str) -> float:
    """Open the chat on a slow network, and return when it shows this element, in ms."""
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    rate = KILOBITS * 1000 / 8
    conditions = {"downloadThroughput": rate, "uploadThroughput": rate, "latency": LATENCY_MS}
    network.send("Network.emulateNetworkConditions", {"offline": False, **conditions})
    page.goto(server.url, wait_until="commit")
    page.wait_for_function("name => window.seenAt?.[name]", arg=element)
    found = float(page.evaluate("name => seenAt[name]", element))
    page.wait_for_load_state("networkidle")  # the next visit finds everything in the cache
    page.close()
    return found


def note(series: dict[str, list[float]], name: str, figure: float) -> None:
    """Add the figure of a round to a series."""
    series.setdefault(name, []).append(figure)


# --- a long conversation ------------------------------------------------------------------------


def measure_long_conversation(environment: Environment) -> Result:
    """Measure what a keystroke and a turn of the wheel cost the page that has loaded everything."""
    messages = LONG if environment.full_size else SHORT
    server = environment.chatlab(users=make_users(20))
    user = server.users[0]
    database = environment.mongo[server.database]
    insert_conversation(database, user.partner, user.id, messages)
    first = database["messages"].find_one({"seq": 1}, {"_id": 1}) or {}
    times: dict[str, list[float]] = {}
    worst: dict[str, list[float]] = {}
    with open_browser() as browser:
        for _ in range(environment.rounds):
            context = open_context(browser, server, user)
            page = context.new_page()
            page.goto(f"{server.url}/#/{user.partner}/{first['_id']}")
            page.locator(".message.found").wait_for()  # the oldest one: all are loaded
            for name, costs in (
                ("keystroke", type_text(page)),
                ("turn of the wheel", scroll(page)),
            ):
                note(times, name, median(costs))
                note(worst, name, quantiles(costs, n=20)[-1])
            context.close()
    checks = [
        Check(f"{name}: p95, ms", figures, MAX_KEYSTROKE_MS, at_least=False)
        for name, figures in worst.items()
    ]
    return Result("ms", times, checks, {"messages": messages}, [])


def type_text(page: Page) -> list[float]:
    """Return the milliseconds of the page's main thread for each keystroke."""
    page.locator(".jump").click()
    page.locator("textarea").click()
    return costs_of(page, lambda number: page.keyboard.press("abcde "[number % 6]), KEYSTROKES)


def scroll(page: Page) -> list[float]:
    """Return the same for each turn of the wheel, up through the conversation."""
    page.locator(".scroller").hover()
    return costs_of(page, lambda _: page.mouse.wheel(0, -800), SCROLLS)


def costs_of(page: Page, act: Any, count: int) -> list[float]:
    """Do something again and again, and return what each time costs the main thread, in ms.

    That is its CPU time, which does not depend on what else the machine does.
    """
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    costs = []
    for number in range(count):
        before = busy_s(session)
        act(number)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        costs.append(1000 * (busy_s(session) - before))
    return costs


def busy_s(session: CDPSession) -> float:
    """Return the seconds for which the main thread of a page has been busy so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


# --- a burst at /lab ----------------------------------------------------------------------------


def measure_lab_frames(environment: Environment) -> Result:
    """Count the frames of the page /lab: at rest, with one message, and during a burst."""
    server = environment.chatlab(users=make_users(20), FLOW="1", LAB_KEY=LAB_KEY)
    rates: dict[str, list[float]] = {}
    seconds = max(environment.seconds, 1)
    with open_browser() as browser:
        for _ in range(environment.rounds):
            context = open_context(browser, server)
            page = context.new_page()
            page.goto(f"{server.url}/lab#key={LAB_KEY}")
            page.locator(".p-sentence").wait_for()
            note(rates, "at rest", count_frames(page, seconds))
            page.keyboard.press("s")
            note(rates, "one message", count_frames(page, seconds))
            page.keyboard.press("m")
            page.get_by_role("button", name=str(BURST), exact=True).click()
            note(rates, f"a burst of {BURST}", count_frames(page, seconds))
            context.close()
    checks = [Check(f"{name}: frames a second", figures, FRAMES) for name, figures in rates.items()]
    settings = {"screen": "1920 x 1080, drawn without a graphics card", "seconds": seconds}
    return Result("frames/s", rates, checks, settings, [])


def count_frames(page: Page, seconds: float) -> float:
    """Return the frames a second that the page shows during these seconds."""
    return float(page.evaluate(COUNT_FRAMES, seconds * 1000)["rate"])
