"""INSTRUCTOR.md agrees with the notebooks, and its short versions fit into their time."""

import re

import pytest
import series

ROOT = series.FOLDER.parent
TEXT = (series.FOLDER / "INSTRUCTOR.md").read_text(encoding="utf-8")
MINUTES = {path.name[:2]: series.minutes(series.read(path)) for path in series.paths()}
CUTS = {45: ["00", "04", "06", "07"], 90: ["00", "04", "06", "07", "08", "10"]}


def cut(minutes: int) -> dict[str, int]:
    """Return the notebooks of a short version, and the minutes for each."""
    part = TEXT.partition(f"## {minutes} minutes\n")[2].partition("\n## ")[0]
    return {
        number: int(some)
        for number, some in re.findall(r"^\| (\d\d) \| (\d+) \|", part, re.MULTILINE)
    }


def test_every_notebook_is_listed_with_its_minutes() -> None:
    """Number, title, link and minutes agree with the notebook, in order.

    Each notebook has a question to ask and an expected answer.
    """
    rows = re.findall(
        r"^\| (\d\d) \| \[(.+?)\]\((.+?)\) \| (\d+) \| (.+?\?) \| (.+?) \|$", TEXT, re.MULTILINE
    )
    notebooks = [(series.read(path), path.name) for path in series.paths()]
    assert [row[:4] for row in rows] == [
        (*series.title(book), name, str(series.minutes(book))) for book, name in notebooks
    ]


@pytest.mark.parametrize("minutes", CUTS)
def test_a_short_version_fits_into_its_time(minutes: int) -> None:
    """The minutes add up, and no notebook has more minutes than in the full series."""
    found = cut(minutes)
    assert list(found) == CUTS[minutes]
    assert sum(found.values()) == minutes
    assert {number: some for number, some in found.items() if some > MINUTES[number]} == {}


def test_the_cells_exist() -> None:
    """The cell numbers of the short versions and of the demonstrations are in their notebooks."""
    counts = {
        path.name[:2]: sum(cell.cell_type == "code" for cell in series.read(path).cells)
        for path in series.paths()
    }
    rows = re.findall(r"^\| (\d\d) \|(?: \d+ \|)? ([\d, to]+) \|", TEXT, re.MULTILINE)
    assert len(rows) > sum(len(numbers) for numbers in CUTS.values())
    for notebook, cells in rows:
        numbers = [int(number) for number in re.findall(r"\d+", cells)]
        assert numbers == sorted(numbers)
        assert numbers[-1] < counts[notebook]  # the last one ends the session


def test_what_the_instructor_page_names_exists() -> None:
    """Links, make targets, exercises and notebooks with their own MongoDB all exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [
        link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if not (series.FOLDER / link).exists()
    ] == []
    assert [
        target
        for target in re.findall(r"`make (\w+)", TEXT)
        if not re.search(rf"^{target}:", makefile, re.MULTILINE)
    ] == []
    own = [
        path.name[:2]
        for path in series.paths()
        if re.search("(own_mongodb|replica_set)=True", path.read_text(encoding="utf-8"))
    ]
    assert f"({', '.join(own)})" in TEXT


def test_the_projector_has_these_keys() -> None:
    """The listed keys are the keys of the projector page."""
    page = (ROOT / "chatlab" / "web" / "static" / "projector" / "controls.js").read_text(
        encoding="utf-8"
    )
    told = re.findall(r"^\| ([A-Z](?:, [A-Z])*) \| ", TEXT, re.MULTILINE)
    keys = re.findall(r"^      (\w): \(\) =>", page, re.MULTILINE)
    assert sorted(", ".join(told).lower().split(", ")) == sorted(keys)
