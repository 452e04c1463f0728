"""All widgets in a real JupyterLab in Chromium, in the light and the dark theme.

The test looks at them, clicks, types and shows them again.
"""

import re
from pathlib import Path

import nbformat
import pytest
import redis
from front_end import assert_no_errors, jupyterlab, opened, run_all, theme
from playwright.async_api import Locator, Page, expect

from chatlab.lab.session_folder import data_folder
from chatlab.local.engines import Engines

pytestmark = pytest.mark.slow  # starts a JupyterLab and a browser

CELLS = (
    """from chatlab.lab import start
lab = await start("widgets", cache_ttl=600)
alice, bob = await lab.user("alice"), await lab.user("bob")""",
    "display(lab.flow_map(), lab.timeline())",
    "lab.chat(alice, bob)",
    """trace = await alice.send(bob, "Hello")
display(lab.stores(trace, big=True))
change = lab.mongo.messages.update_one({}, {"$set": {"text": "Hello again"}, "$inc": {"version": 1}})  # behind the back of the cache""",
    'display(lab.flow_map(of="read", big=True))\nreading = await bob.read("alice")',
    """import asyncio
chart = lab.chart("Reads", log=True)
display(chart)
for number in range(1, 3001):
    chart.add("from Redis", 0.4 + number % 7 / 10)
    chart.add("from MongoDB", 2 + number % 11)
    chart.progress(number, 3000)
    if number % 100 == 0:
        await asyncio.sleep(0.005)""",
    """lines = lab.chart("Length against time", x="messages", log=True, big=True)
for length in (10, 100, 1000):
    lines.point("from Redis", length, 0.5)
    lines.point("from MongoDB", length, length / 50)
lines""",
    "await lab.update_settings(cache_ttl=5)",
)
WIDGETS = ".cl-map, .cl-timeline, .cl-chat, .cl-stores, .cl-chart"
# their positions on the screen
SWEEPS = "[...document.querySelectorAll('.cl-tick circle')].map((sweep) => sweep.getBoundingClientRect().x)"


def write_notebook(folder: Path) -> None:
    """Write a notebook with one cell for each of CELLS."""
    folder.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})  # type: ignore[no-untyped-call]
    nbformat.write(notebook, folder / "widgets.ipynb")  # type: ignore[no-untyped-call]


def pane(page: Page, side: str) -> Locator:
    """Return one of the two screens."""
    return page.locator(f".cl-pane[data-side={side}]")


async def typed(page: Page, side: str, text: str, door: str) -> None:
    """Choose the transport on one screen, type a text and press Enter.

    An Enter that an input method has used, which browsers mark by a key code, does not send it.
    """
    field = pane(page, side).locator(".cl-input")
    await pane(page, side).get_by_label(door, exact=True).check()
    await field.fill(text)
    used = "new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true })"
    await field.evaluate(f"(node) => node.dispatchEvent({used})")
    await expect(field).to_have_value(text)
    await field.press("Enter")


async def two_people_write(page: Page) -> None:
    """A message over either transport appears on both screens and lights its transport.

    The receiver's screen shows the time it took.
    """
    doors = [
        ("left", "right", "HTTP", "Typed by Alice"),
        ("right", "left", "socket", "Answered by Bob"),
    ]
    for side, other, door, text in doors:
        await typed(page, side, text, door)
        await expect(pane(page, side).locator(".cl-own", has_text=text)).to_be_visible()
        await expect(pane(page, other).locator(".cl-theirs", has_text=text)).to_contain_text(
            "shown after"
        )
        await expect(page.locator(".cl-map").first.locator(".cl-used")).to_contain_text(
            {"HTTP": "HTTP POST", "socket": "WebSocket"}[door]
        )
    await pane(page, "left").locator(".cl-input").press_sequentially("...")
    await expect(pane(page, "right").locator(".cl-typing")).to_have_text("alice is typing…")


async def boxes_open(page: Page, folder: Path) -> None:
    """A click or Enter on a box shows its functions, and Escape closes the source."""
    send = page.locator(".cl-map").first
    save, shown = send.locator("[data-stage=save]"), send.locator(".cl-source")
    await expect(shown).to_be_hidden()
    await save.click()
    await expect(shown).to_contain_text("MessageStore.save chatlab/store/messages.py, lines")
    await expect(shown).to_contain_text("def save(self, draft: Draft)")
    await save.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(shown).to_contain_text("Cache.put_message chatlab/cache/cache.py, lines")
    await send.get_by_role("button", name="The whole way").click()
    await expect(shown).to_contain_text("Service.send chatlab/service.py, lines")
    await send.screenshot(path=folder / "source.png")
    await page.keyboard.press("Escape")
    await expect(shown).to_be_hidden()
    # the widget handled the keys, not the notebook
    await expect(page.get_by_text("Mode: Command")).to_be_visible()


async def the_line_of_time_moves(page: Page) -> None:
    """The timeline moves by itself, and the space bar stops and restarts it."""
    line = page.locator(".cl-timeline")
    await expect(line.locator(".cl-last-sweep")).to_contain_text("Sweep: ")
    await expect(line.locator(".cl-lived").first).to_be_attached()
    moved = f"before => !{SWEEPS}.some((x) => Math.abs(x - before) < 1)"
    await page.wait_for_function(moved, arg=await page.evaluate(f"{SWEEPS}.at(-1)"))
    await line.press(" ")
    await expect(line.locator(".cl-last-sweep")).to_contain_text("Stopped.")
    stopped = await page.evaluate(f"{SWEEPS}.at(-1)")
    # the sweeps continue to the right of "now"
    await page.wait_for_function(f"before => {SWEEPS}.at(-1) > before + 5", arg=stopped)
    assert not await page.evaluate(moved, stopped)
    await line.press(" ")
    await page.wait_for_function(moved, arg=stopped)


def expire(data: Path, shown: str) -> None:
    """Let the message that the widget shows expire from the cache now.

    Until then its TTL is long, so a slow test does not miss it.
    """
    match = re.search("message:[0-9a-f]{24}", shown)
    assert match, shown
    (session,) = (data / "lab").glob("lab_widgets_*")
    with redis.Redis.from_url(data_folder(session).url("redis")) as keys:
        assert keys.pexpire(match[0], 1)


async def a_cell_again(page: Page) -> None:
    """After the cell ran again there is one pair of screens, and it works."""
    await page.locator(".jp-CodeCell").nth(2).locator(".jp-InputArea").click()
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".cl-chat")).to_have_count(1)
    await expect(pane(page, "left").locator(".cl-message")).to_have_count(0)
    await expect(pane(page, "right")).to_have_class("cl-pane cl-open")
    await expect(pane(page, "left")).to_have_class("cl-pane cl-open")
    await typed(page, "right", "Anew", "HTTP")
    await expect(pane(page, "left").locator(".cl-theirs", has_text="Anew")).to_be_visible()


async def pictures(page: Page, folder: Path) -> None:
    """Take a picture of each widget."""
    for number, widget in enumerate(await page.locator(WIDGETS).all()):
        await widget.scroll_into_view_if_needed()
        await widget.screenshot(path=folder / f"{number}.png")


@pytest.mark.timeout(600)  # a slow machine may use several of the generous limits
async def test_widgets_live(engines: Engines, tmp_path: Path) -> None:
    """Test everything in one JupyterLab, since it takes seconds to start."""
    write_notebook(tmp_path / "written")
    urls = {"MONGO_URL": engines.mongo.url, "DATA_DIR": str(tmp_path / "data")}
    async with (
        jupyterlab(tmp_path, tmp_path / "written", **urls) as url,
        opened(url, "widgets.ipynb") as page,
    ):
        await run_all(page)
        stale = page.locator(".cl-stores [data-state=stale]")
        await expect(stale).to_have_count(2)
        await expect(stale.locator(".cl-other")).to_have_text(["version1", "textHello"] * 2)
        await expect(page.locator(WIDGETS)).to_have_count(7)
        await expect(page.locator(".cl-open")).to_have_count(2)
        await expect(page.locator(".cl-chart").first).to_contain_text("3,000 of 3,000, done")
        await expect(page.locator(".cl-chart").first.locator("circle")).to_have_count(480)
        await expect(page.locator(".cl-chart.cl-big img.measured")).to_be_visible()
        await expect(page.locator(".cl-big [data-stage=read_store]")).to_contain_text("not asked")
        await pictures(page, tmp_path / "light")

        await two_people_write(page)
        await boxes_open(page, tmp_path)
        await the_line_of_time_moves(page)
        expire(tmp_path / "data", await page.locator(".cl-stores").inner_text())
        await expect(page.locator(".cl-stores [data-place=message]")).to_have_attribute(
            "data-state", "away"
        )
        await expect(page.locator(".cl-word-of-it").first).to_be_attached()
        await a_cell_again(page)
        await theme(page, "JupyterLab Dark")
        await pictures(page, tmp_path / "dark")
        await assert_no_errors(page)
