"""Notebook 00 in a real JupyterLab in Chromium: what only a live front end can show."""

from pathlib import Path

import pytest
import series
from front_end import assert_no_errors, jupyterlab, opened, run_all
from http_clients import open_client
from playwright.async_api import Page, expect

pytestmark = pytest.mark.slow  # starts a JupyterLab and a browser

WATCH_BAR = """() => {
    window.widths = [];  // of the first bar, in percent, in order: it lives for a few seconds, and a slow test may look too late
    const look = () => {
        const fill = document.querySelector(".cl-fill");
        if (fill && fill.style.width && fill.style.width !== widths.at(-1)) widths.push(fill.style.width);
    };
    new MutationObserver(look).observe(document.body, { attributeFilter: ["style"], childList: true, subtree: true });
}"""


async def drawn_widths(page: Page) -> list[float]:
    """Return every width that the bar has had, in percent."""
    return [float(width.removesuffix("%")) for width in await page.evaluate("widths")]


@pytest.mark.timeout(600)  # a slow machine may use several of the generous limits
async def test_the_bar_shrinks_and_ends(tmp_path: Path) -> None:
    """After "Run All Cells" the boxes show their times, and the bar of the message shrinks.

    In the end the bar is empty, and the key is reported as gone. The last cell offers to stop the
    kernel, and does so.
    """
    async with (
        jupyterlab(tmp_path, series.FOLDER) as url,
        opened(url, "00_start_here.ipynb") as page,
    ):
        await page.evaluate(WATCH_BAR)
        await run_all(page)

        bar = page.locator(".cl-key").first
        await expect(bar).to_have_attribute("data-state", "gone")
        widths = await drawn_widths(page)
        assert len(set(widths)) > 2
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] == 0
        await expect(bar).to_contain_text("cleaned: the sweeper logged it at")
        await expect(page.locator(".cl-lit")).to_have_count(7)
        await page.screenshot(path=tmp_path / "gone.png")

        await expect(page.get_by_text("its data in MongoDB is deleted.")).to_be_visible()
        await assert_no_errors(page)
        await page.screenshot(path=tmp_path / "end.png")
        await page.get_by_role("button", name="Stop the kernel of this notebook").click()
        await expect(page.get_by_text("The kernel has stopped.")).to_be_visible()
        await page.screenshot(path=tmp_path / "stopped.png")
        async with open_client() as client:
            assert (await client.get(f"{url}/api/kernels")).json() == []
