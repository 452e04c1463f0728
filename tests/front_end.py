"""A real JupyterLab in Chromium, with its own folders and without the settings of this machine."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from browsing import FLAGS, LIMIT_MS
from find_browser import chromium_path
from http_clients import open_client
from live import free_port
from playwright.async_api import Page, async_playwright, expect
from waiting import wait_until

QUIET = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    }
}


def environment(home: Path, **chatlab: str) -> dict[str, str]:
    """Return an environment in which all folders of JupyterLab are below `home`.

    `chatlab` has settings for the kernels, without the prefix CHATLAB_.
    """
    for name, settings in QUIET.items():
        file = home / "user-settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings))
    folders = {
        f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    lab = {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    own = {f"CHATLAB_{name}": value for name, value in chatlab.items()}
    return (
        os.environ
        | folders
        | lab
        | own
        | {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_NO_CONFIG": "1"}
    )


@contextlib.asynccontextmanager
async def jupyterlab(home: Path, folder: Path, **chatlab: str) -> AsyncIterator[str]:
    """Run JupyterLab on a copy of these notebooks, and yield its URL.

    Its kernels, and the processes they started, end with it.
    """
    notebooks, url = home / "notebooks", f"http://127.0.0.1:{(port := free_port())}"
    shutil.copytree(folder, notebooks)
    options = [
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
    ]
    options += [
        "--no-browser",
        f"--ServerApp.root_dir={notebooks}",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (home / "jupyterlab.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "jupyterlab",
            *options,
            env=environment(home, **chatlab),
            stdout=log,
            stderr=log,
        )
        try:
            await wait_until_ready(url)
            yield url
        finally:
            server.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait(), 20)
            with contextlib.suppress(ProcessLookupError):
                server.kill()


async def wait_until_ready(url: str) -> None:
    """Wait until JupyterLab answers."""
    async with open_client() as client:

        async def answers() -> bool:
            try:
                return (await client.get(f"{url}/api")).is_success
            except httpx.TransportError:
                return False

        await wait_until(answers, "JupyterLab to answer")


@contextlib.asynccontextmanager
async def opened(url: str, notebook: str) -> AsyncIterator[Page]:
    """Open a notebook in a new browser, and wait until its kernel is idle."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(LIMIT_MS)
            await page.goto(f"{url}/lab/tree/{notebook}")
            await expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
            yield page
        finally:
            await browser.close()


async def run_all(page: Page) -> None:
    """Run all cells, from the menu."""
    await page.get_by_role("menuitem", name="Run", exact=True).click()
    await page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


async def theme(page: Page, name: str) -> None:
    """Switch to the theme `JupyterLab Light` or `JupyterLab Dark`."""
    await page.evaluate(
        "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", name
    )
    await page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)


async def assert_no_errors(page: Page) -> None:
    """Assert that every widget is drawn, and that no cell has a traceback or output on stderr."""
    await expect(page.get_by_text("Error displaying widget")).to_have_count(0)
    await expect(page.locator(".cl-error:visible")).to_have_count(0)
    await expect(
        page.locator(
            "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
        )
    ).to_have_count(0)
