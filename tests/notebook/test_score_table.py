"""Notebook 13's scorecard as a table and as a file, and the slider of notebook 10."""

import re
from pathlib import Path

import pytest

from chatlab.bench.claims import GET, UPDATE, Comparison, judge
from chatlab.lab.claims import DOCUMENT, ClaimResult
from chatlab.lab.lessons.distance import Distance
from chatlab.lab.lessons.faster import Measured
from chatlab.lab.lessons.score_table import ScoreTable, count, count_text, export, rows
from chatlab.lab.scorecard import Scorecard
from chatlab.lab.widgets import Chart


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure three claims."""
    monkeypatch.setenv("CHATLAB_DATA_DIR", str(tmp_path))
    Scorecard().write("00", [ClaimResult("seven_boxes", "seven & in order", "holds")])
    Scorecard().write("06", [ClaimResult("ttl_0", "PTTL -2", "does not hold")])
    Scorecard().write("10", [ClaimResult("send_faster", "-3 %", "depends", timed=True)])


def numbers(table_html: str) -> list[str]:
    """Return the first cell of each row."""
    return re.findall(r'<tr class="timed"><td [^>]*>(\d+)</td>', table_html)


@pytest.mark.usefixtures("measured")
async def test_the_scorecard_can_be_sorted() -> None:
    """By verdict, those that hold come first, and those without a measurement last."""
    table = ScoreTable(rows())
    assert numbers(table._shown.value) == [str(number) for number in range(1, len(DOCUMENT) + 1)]
    table._order.value = "verdict"
    assert numbers(table._shown.value)[:4] == ["1", "27", "11", "2"]
    assert "seven &amp; in order" in table._shown.value
    assert {verdict: number for verdict, number in count(rows()).items() if verdict} == {
        "holds": 1,
        "depends": 1,
        "does not hold": 1,
    }


@pytest.mark.usefixtures("measured")
def test_the_scorecard_is_exported_as_one_file(tmp_path: Path) -> None:
    """The page has all claims and the name of its author, and loads nothing."""
    export(str(tmp_path / "scorecard.html"), "Ada <ada@example.org>")
    page = (tmp_path / "scorecard.html").read_text(encoding="utf-8")
    assert "<h1>Scorecard of Ada &lt;ada@example.org&gt;</h1>" in page
    assert len(numbers(page)) == len(DOCUMENT)
    assert str(count_text(rows())) in page
    assert re.findall(r"src=|href=|url\(", page) == []


async def test_the_slider_moves_mongodb_away() -> None:
    """With each trip 45 ms longer, an edit takes the document's 100 ms without the cache."""
    chart = Chart("Times")
    edits = judge(Comparison(UPDATE, "edit", [10.0] * 30, [9.0] * 30, (2, 1)))
    reads = judge(Comparison(GET, "read", [3.0] * 30, [1.0] * 30, (1, 0)))
    slider = Distance(*(Measured("an operation", one, chart) for one in (reads, edits)))
    assert slider._panels[1].saved(45) == pytest.approx(1 - 54 / 100)
    picture = slider._picture.at(45)
    assert "100.0 → 54.0 ms: 46% less (claimed 50%)" in picture
    assert "48.0 → 1.0 ms: 98% less (claimed 60%)" in picture
    assert picture.count("<circle") == slider._picture.at(0).count("<circle") == 4
    assert "live in a running notebook" in slider._repr_mimebundle_()["text/plain"]
    chart.close()
