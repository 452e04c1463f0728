"""Notebook 00 in a real JupyterLab in Chromium: what only a living front end can show."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import series
from find_browser import chromium_path
from live import free_port
from playwright.async_api import Page, async_playwright, expect

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
QUIET = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}}
RUN_WITHIN = 60_000  # milliseconds for all cells


def environment(home: Path) -> dict[str, str]:
    """JupyterLab with nobody's settings: every folder it knows is below this one."""
    for name, settings in QUIET.items():
        file = home / "user-settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings))
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    lab = {"JUPYTERLAB_SETTINGS_DIR": str(home / "user-settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    return os.environ | folders | lab | {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_NO_CONFIG": "1"}


@contextlib.asynccontextmanager
async def jupyterlab(home: Path) -> AsyncIterator[str]:
    """A JupyterLab on a copy of the notebooks; its URL. Its kernels, and what they started, end with it."""
    notebooks, url = home / "notebooks", f"http://127.0.0.1:{(port := free_port())}"
    shutil.copytree(series.FOLDER, notebooks)
    options = [f"--port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token="]
    options += ["--no-browser", f"--ServerApp.root_dir={notebooks}", "--allow-root"]
    with (home / "jupyterlab.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "jupyterlab", *options, env=environment(home), stdout=log, stderr=log
        )
        try:
            await until_it_answers(url)
            yield url
        finally:
            server.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait(), 20)
            with contextlib.suppress(ProcessLookupError):
                server.kill()


async def until_it_answers(url: str) -> None:
    """Wait for the server."""
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/api")).is_success:
                    return
            await asyncio.sleep(0.1)  # between two knocks


@contextlib.asynccontextmanager
async def opened(url: str, notebook: str) -> AsyncIterator[Page]:
    """A notebook in a browser of this test's own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(30_000)
            await page.goto(f"{url}/lab/tree/{notebook}")
            await expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=30_000)
            yield page
        finally:
            await browser.close()


async def width(page: Page) -> float:
    """Pixels of the bar."""
    box = await page.locator(".cl-fill").first.bounding_box()
    assert box
    return box["width"]


@pytest.mark.timeout(180)
async def test_the_bar_shrinks_and_ends(tmp_path: Path) -> None:
    """Run all cells: the boxes light with their times, the bar of the learner's own message shrinks, is empty, and is told as gone."""
    async with jupyterlab(tmp_path) as url, opened(url, "00_start_here.ipynb") as page:
        await page.get_by_role("menuitem", name="Run", exact=True).click()
        await page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

        bar = page.locator(".cl-key").first
        await expect(bar).to_have_attribute("data-state", "live", timeout=RUN_WITHIN)
        await bar.scroll_into_view_if_needed()
        first = await width(page)
        await page.screenshot(path=tmp_path / "live.png")
        await page.wait_for_function("first => document.querySelector('.cl-fill').getBoundingClientRect().width < 0.8 * first", arg=first)
        assert 0 < await width(page) < first

        await expect(bar).to_have_attribute("data-state", "gone", timeout=15_000)
        assert await width(page) == 0
        await expect(bar).to_contain_text("cleaned, told by the worker at")
        await expect(page.locator(".cl-lit")).to_have_count(7)
        await page.screenshot(path=tmp_path / "gone.png")

        await expect(page.get_by_text("The service has ended. Left: 0 keys, 0 messages.")).to_be_attached(timeout=RUN_WITHIN)
        await expect(page.get_by_text("Error displaying widget")).to_have_count(0)
        await expect(page.locator(".cl-error:visible")).to_have_count(0)
        await expect(
            page.locator("[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']")
        ).to_have_count(0)
        await page.screenshot(path=tmp_path / "end.png")
