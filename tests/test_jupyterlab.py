"""Notebook 00 in a real JupyterLab in Chromium: what only a living front end can show."""

from pathlib import Path

import pytest
import series
from front_end import jupyterlab, nothing_went_wrong, opened, run_all
from playwright.async_api import Page, expect

RUN_WITHIN = 60_000  # milliseconds for all cells


async def width(page: Page) -> float:
    """Pixels of the bar."""
    box = await page.locator(".cl-fill").first.bounding_box()
    assert box
    return box["width"]


@pytest.mark.timeout(180)
async def test_the_bar_shrinks_and_ends(tmp_path: Path) -> None:
    """Run all cells: the boxes light with their times, the bar of the learner's own message shrinks, is empty, and is told as gone."""
    async with jupyterlab(tmp_path, series.FOLDER) as url, opened(url, "00_start_here.ipynb") as page:
        await run_all(page)

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
        await nothing_went_wrong(page)
        await page.screenshot(path=tmp_path / "end.png")
