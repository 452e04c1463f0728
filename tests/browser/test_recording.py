"""`chatlab record`: a real session as one page, which replays it without a server or a network."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from browsing import browser
from playwright.async_api import Browser, Page
from waiting import LIMIT_S

from chatlab.local.engines import Engines

__all__ = ["browser"]  # fixture
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),
    pytest.mark.slow,
]

STORY_MS = 60_000  # longer than the replay
TICK_MS = 200
# Note each sentence when it is said, and each error.
NOTE = """
    window.told = [];
    window.problems = [];
    addEventListener("error", ({ message, target }) => problems.push(message ?? String(target)), true);
    addEventListener("unhandledrejection", ({ reason }) => problems.push(String(reason)));
    new MutationObserver(() => {
        const text = document.querySelector(".p-sentence")?.textContent;
        if (text && told.at(-1) !== text) told.push(text);
    }).observe(document, { childList: true, subtree: true, characterData: true });
"""
STORY = (
    "Ada writes to Ben",
    "MongoDB stores the message",
    "Redis keeps a copy",
    "The message appears on Ben",
    "Ada learns that the message is saved",
    "Ben opens the chat with Ada",
    "A hit:",
    "Its time is over",
    "The background worker makes its round",
    "It logs “Cache cleaned”",
    "Ben opens the chat with Ada",
    "A miss:",
)


async def test_a_recorded_session_needs_no_server(
    browser: Browser, engines: Engines, tmp_path: Path
) -> None:
    """The page shows the send, the hit, the end of the key and the miss, all from the file.

    The clock of the browser is that of the test, so the replay takes no time.
    """
    file = await record(engines, tmp_path)
    page, requests = await open_offline(browser, file)
    await page.clock.run_for(STORY_MS)
    told = list(await page.evaluate("told"))
    for sentence in STORY:
        places = [place for place, text in enumerate(told) if sentence in text]
        assert places, (sentence, told)
        told = told[places[0] + 1 :]
    numbers = {
        name: await page.inner_text(f"[data-number={name}]") for name in ("sent", "hit", "miss")
    }
    assert numbers == {"sent": "1", "hit": "1", "miss": "1"}
    assert await page.text_content(".s-outcome") == "MISS: from MongoDB"

    await page.keyboard.press("a")
    await run_until(page, "Ada writes to Ben")
    assert await page.inner_text("[data-number=sent]") == "0"
    await run_until(page, "Now the time of the copy in Redis runs")
    await page.locator("[data-view=send] .p-title").click()
    await page.locator("[data-view=send] .s-key").first.click()
    assert "s left" in await page.inner_text(".p-key-state")
    assert '"text": "Hello!"' in await page.inner_text(".p-value")
    assert await page.evaluate("problems") == []
    assert requests == [file.as_uri()]
    await page.context.close()


async def run_until(page: Page, sentence: str) -> None:
    """Let the time of the page pass until it says this sentence."""
    for _ in range(STORY_MS // TICK_MS):
        if sentence in await page.inner_text(".p-sentence"):
            return
        await page.clock.run_for(TICK_MS)
    pytest.fail(f"the page does not say: {sentence}")


async def open_offline(browser: Browser, file: Path) -> tuple[Page, list[str]]:
    """Open a file in a browser without a network, whose clock stands still.

    Return the page, and the list of what it requests.
    """
    context = await browser.new_context(offline=True, viewport={"width": 1280, "height": 720})
    page = await context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await page.add_init_script(NOTE)
    await page.clock.install()
    await page.goto(file.as_uri())
    return page, requests


async def record(engines: Engines, folder: Path) -> Path:
    """Run `chatlab record`, and return the file."""
    file = folder / "story.html"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")
    }
    environment |= {
        "CHATLAB_MONGO_URL": engines.mongo.url,
        "CHATLAB_REDIS_URL": engines.redis.url,
    }
    command = [sys.executable, "-m", "chatlab", "record", str(file)]
    done = await asyncio.create_subprocess_exec(
        *command, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(done.communicate(), LIMIT_S)
    assert done.returncode == 0, errors.decode()
    return file
