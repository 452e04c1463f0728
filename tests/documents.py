"""The pages of the documentation: their links, anchors, code and shell commands."""

import re
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import series
import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")),
    series.FOLDER / "INSTRUCTOR.md",
    series.FOLDER / "index.ipynb",
    *series.paths(),
]


@dataclass
class Link:
    """A link or a picture. `text` is what the reader sees; `is_code` if all of it is code."""

    target: str
    text: str = ""
    is_code: bool = False


@dataclass
class Block:
    """A fenced block of code, or an indented one, which has no language."""

    language: str
    text: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block without their comments, one for each line."""
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in self.text.splitlines())
        return [line for line in lines if line]


@dataclass
class Page:
    """What a page contains. `code` are the pieces of code within its sentences."""

    path: Path
    links: list[Link] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    code: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    prose: str = ""

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()


@cache
def read_page(path: Path) -> Page:
    """Read a Markdown file, the text cells of a notebook, or the texts of a form of GitHub."""
    reader = _PageReader(Page(path))
    reader.feed(MarkdownIt("commonmark").enable("table").render(_markdown_of(path)))
    return reader.page


def _markdown_of(path: Path) -> str:
    if path.suffix == ".ipynb":
        cells = [cell for cell in series.read(path).cells if cell.cell_type == "markdown"]
        return "\n\n".join(cell.source for cell in cells)
    text = path.read_text(encoding="utf-8")
    return "\n\n".join(_strings(yaml.safe_load(text))) if path.suffix == ".yml" else text


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [str(value)]


class _PageReader(HTMLParser):
    """Collect the contents of a page from its HTML."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self._open: list[str] = []
        self._heading = self._code = ""  # the text of the open one
        self._link: Link | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self._open.append(tag)
        if "id" in values:
            self.page.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self._link = Link(values["href"])
            self.page.links.append(self._link)
        elif tag == "img":
            self.page.links.append(Link(values["src"], values.get("alt", "")))
        elif tag == "code" and "pre" in self._open:
            self.page.blocks.append(Block(values.get("class", "").removeprefix("language-")))
        if tag == "code":
            self._code = ""
        if _is_heading(tag):
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:  # <img> and <br> have no end
            pass
        if tag == "a":
            self._link = None
        elif tag == "code" and "pre" not in self._open:
            self.page.code.append(self._code)
            if self._link:
                self._link.is_code = self._link.text == self._code
        elif _is_heading(tag):
            self.page.anchors.add(self._anchor())

    def handle_data(self, data: str) -> None:
        if "pre" in self._open:
            if "code" in self._open:
                self.page.blocks[-1].text += data
            return
        self._heading += data
        if "code" in self._open:
            self._code += data
        else:
            self.page.prose += data
        if self._link:
            self._link.text += data

    def _anchor(self) -> str:
        """Return the anchor of a heading: as JupyterLab makes it for notebooks, else as GitHub."""
        if self.page.path.suffix == ".ipynb":
            return self._heading.replace(" ", "-")
        slug = re.sub(r"[^\w\- ]", "", self._heading.strip().lower()).replace(" ", "-")
        repeats = (f"{slug}-{number}" for number in range(1, 100))
        return next(name for name in (slug, *repeats) if name not in self.page.anchors)


def _is_heading(tag: str) -> bool:
    return re.fullmatch("h[1-6]", tag) is not None
