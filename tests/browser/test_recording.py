"""`chatlab record`: a real session as one page, which replays it without a server or a network."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from browsing import browser
from playwright.async_api import Browser, expect
from waiting import LIMIT_S

from chatlab.local.engines import Engines

__all__ = ["browser"]  # fixture
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),
    pytest.mark.slow,
]


async def test_a_recorded_session_needs_no_server(
    browser: Browser, engines: Engines, tmp_path: Path
) -> None:
    """The page shows the send, the hit, the end of the key and the miss, all from the file."""
    file = tmp_path / "story.html"
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
    context = await browser.new_context(offline=True, viewport={"width": 1280, "height": 720})
    page = await context.new_page()
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    await page.goto(file.as_uri())
    for sentence in ("Ada writes to Ben", "A hit:", "Its time is over", "The copy has lived"):
        await expect(page.locator(".p-sentence")).to_contain_text(sentence)
    await expect(page.locator(".s-outcome")).to_have_text("MISS: from MongoDB")
    await expect(page.locator("[data-number=miss]")).to_have_text("1")
    await page.keyboard.press("a")
    await expect(page.locator("[data-number=sent]")).to_have_text("0")
    await expect(page.locator(".p-sentence")).to_contain_text("Ada writes to Ben")
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert problems == []
    await context.close()
