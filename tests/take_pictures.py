"""Take the pictures of the README again: `python tests/take_pictures.py`.

It starts its own servers, opens the real pages in Chromium, and runs `chatlab demo`.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from browsing import FLAGS, BrowserSession, Tab
from find_browser import chromium_path
from live import User
from patient import PatientService
from playwright.async_api import Browser, Page, async_playwright, expect
from shared_service import LAB_KEY, SharedService, meet, start_shared_service

from chatlab.local.engines import open_engines
from chatlab.settings import load_settings

PICTURES = Path(__file__).with_name("pictures")
CONVERSATION = [  # whether Ada writes it, and the text
    (True, "Where does a message go when I press Enter?"),
    (False, "To MongoDB first. It is sent to us only after it is saved."),
    (False, "Then to Redis, for five seconds."),
    (True, "And after five seconds?"),
    (False, "It is gone from the cache, and still in MongoDB. Watch it on /lab."),
]


async def take_chat(browser: Browser, shared: SharedService) -> None:
    """Show a conversation of Ada and Ben, and unread messages of Grace."""
    ada, ben, grace = (shared.create_user(name) for name in ("ada", "ben", "grace"))
    await meet(ada, ben)
    sent = [
        await (ada.send(ben, text) if is_by_ada else ben.send(ada, text))
        for is_by_ada, text in CONVERSATION
    ]
    await ada.http.put(f"/api/messages/{sent[-1]['_id']}/reactions/\N{HEAVY BLACK HEART}")
    for text in ("Are you in the course?", "Notebook 03 is open."):
        await grace.send(ada, text)
    await ben.http.post("/api/messages/ada/read", json={"seq": len(CONVERSATION)})
    page = await open_page(browser, shared, ada, "#/ben", width=1100, height=640)
    await Tab(page).has_loaded()
    await expect(page.locator("li.message")).to_have_count(len(CONVERSATION))
    await page.screenshot(path=PICTURES / "chat.png")
    await asyncio.gather(*(user.close() for user in (ada, ben, grace)))


async def take_lab(browser: Browser, shared: SharedService) -> None:
    """Show the life of a key, some seconds after a send."""
    session = await BrowserSession.start(
        browser, shared.service.url, viewport={"width": 1280, "height": 720}
    )
    page = (await session.open(f"lab#key={LAB_KEY}")).page
    await expect(page.locator(".p-sentence")).to_contain_text("goes on its way")
    await page.keyboard.press("s")
    await expect(page.locator(".p-sentence")).to_contain_text("After 2 s")
    await page.screenshot(path=PICTURES / "lab.png")


async def open_page(
    browser: Browser, shared: SharedService, user: User, path: str, *, width: int, height: int
) -> Page:
    """Open a page of the service in a window of this size."""
    size = {"width": width, "height": height}
    session = await BrowserSession.start(browser, shared.service.url, user, viewport=size)
    return (await session.open(path)).page


async def main() -> None:
    """Take the pictures of both pages."""
    with tempfile.TemporaryDirectory(prefix="chatlab-") as folder:
        settings = load_settings(data_dir=Path(folder), mongo_url=None, redis_url=None)
        with (
            open_engines(settings) as engines,
            start_shared_service(
                engines, Path(folder) / "service.log", PatientService, KEY_PREFIX=""
            ) as shared,
        ):
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path=chromium_path(), args=FLAGS
                )
                await take_chat(browser, shared)
                await take_lab(browser, shared)
                await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
    story = PICTURES.parent.parent / "docs" / "send-read-expire.html"
    subprocess.run([sys.executable, "-m", "chatlab", "record", str(story)], check=True)
    demo = [sys.executable, "-m", "chatlab", "demo", "--svg", str(PICTURES / "demo.svg")]
    subprocess.run(demo, check=True)
