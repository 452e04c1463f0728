"""The documentation agrees with the code: its links lead somewhere, and what it names exists."""

import ast
import re
import tomllib
from datetime import date
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documents import PAGES, ROOT, Link, Page, read_page
from typer.core import TyperGroup
from typer.main import get_command

from chatlab import metrics
from chatlab.cli import app
from chatlab.local.versions import CHECKED, SAFE_RELEASES, months_since_check
from chatlab.settings import PREFIX, Settings

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("", "benchmarks", "chatlab", "deploy", "docs", "notebooks", "tests")
    for path in ((ROOT / folder).rglob("*.*") if folder else ROOT.glob("*.*"))
]
METRICS = metrics.prometheus_text().decode()

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


# --- links ---


@each_page
def test_every_link_leads_somewhere(path: Path) -> None:
    """The file of a link exists, and so does its anchor, line or symbol."""
    page = read_page(path)
    problems = {link.target: _problem(page, link) for link in page.links}
    assert {target: problem for target, problem in problems.items() if problem} == {}
    assert not re.search(r"\]\[|\]\(", page.prose), "a link without a target is shown as text"


def _problem(page: Page, link: Link) -> str:
    """Return what is wrong with a link, or an empty string. Web pages are not requested."""
    parts = urlsplit(link.target)
    if parts.scheme:
        is_web_page = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.:-]+", parts.netloc)
        return "" if is_web_page else "not the address of a web page"
    target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    if not target.is_relative_to(ROOT) or not target.exists():
        return "no such file"
    if parts.fragment and target.suffix in (".md", ".ipynb"):
        return "" if parts.fragment in read_page(target).anchors else "no such anchor"
    if target.is_dir() or not (parts.fragment or _names_a_symbol(link)):
        return "an anchor in a folder" if parts.fragment else ""
    return _problem_with_lines(target, parts.fragment, link)


def _names_a_symbol(link: Link) -> bool:
    return link.is_code and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", link.text) is not None


def _problem_with_lines(target: Path, fragment: str, link: Link) -> str:
    """Check `#L12` or `#L12-L20`, and that these lines, or the file, define what the text names."""
    lines = target.read_text(encoding="utf-8").splitlines()
    first, last = 1, len(lines)
    if fragment:
        found = re.fullmatch(r"L(\d+)(?:-L(\d+))?", fragment)
        if not found:
            return "an anchor that is not a line"
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= len(lines):
            return "no such line"
    is_file_name = link.text in (target.name, target.stem)
    if not _names_a_symbol(link) or is_file_name:
        return ""
    defined = {name for name, line in _symbols(target) if first <= line <= last}
    return "" if link.text in defined else f"does not define {link.text}"


@cache
def _symbols(path: Path) -> list[tuple[str, int]]:
    """Return each name that a Python file defines, with the names around it, and its line.

    Every word of another file counts as a symbol.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        lines = enumerate(text.splitlines(), 1)
        return [(word, number) for number, line in lines for word in re.findall(r"\w+", line)]
    return list(_definitions(ast.parse(text).body, ""))


def _definitions(body: list[ast.stmt], prefix: str) -> list[tuple[str, int]]:
    found = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found += [(prefix + node.name, node.lineno)]
            found += _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name.id for name in targets if isinstance(name, ast.Name)]
            found += [(prefix + name, node.lineno) for name in names]
    return found


@pytest.mark.parametrize(
    ("text", "target", "problem"),
    [
        ("here", "docs/cache.md#no-gap", ""),
        ("here", "docs/cache.md#no-such-guard", "no such anchor"),
        ("here", "docs/nowhere.md", "no such file"),
        ("here", "../elsewhere.md", "no such file"),
        ("here", "chatlab/service.py#L1", ""),
        ("here", "chatlab/service.py#L100000", "no such line"),
        ("here", "chatlab/service.py#send", "an anchor that is not a line"),
        ("Service.send", "chatlab/service.py", ""),
        ("Service.sned", "chatlab/service.py", "does not define Service.sned"),
        ("Service.send", "chatlab/service.py#L1-L3", "does not define Service.send"),
        ("here", "https://example.org/a#b", ""),
        ("here", "htp://example.org", "not the address of a web page"),
    ],
)
def test_a_wrong_link_is_found(text: str, target: str, problem: str) -> None:
    """The check of the links can fail."""
    assert _problem(Page(ROOT / "README.md"), Link(target, text, is_code=text != "here")) == problem


# --- names ---


@each_page
def test_everything_named_exists(path: Path) -> None:
    """Files, tests, settings, metrics, make targets and commands exist, if written as code."""
    page = read_page(path)
    pieces = page.code + [
        command for block in page.blocks if block.language == "sh" for command in block.commands
    ]
    assert [piece for piece in pieces if not _exists(piece, path)] == []


def _exists(piece: str, path: Path) -> bool:
    named = {word.lower() for word in re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])", piece)}
    return (
        named <= set(Settings.model_fields)
        and _is_file_if_it_looks_like_one(piece, path)
        and _is_test_if_it_looks_like_one(piece)
        and _is_metric_if_it_looks_like_one(piece)
        and _is_command_if_it_looks_like_one(piece)
    )


def _is_file_if_it_looks_like_one(piece: str, path: Path) -> bool:
    if not re.fullmatch(r"[\w./-]+\.(py|lua|md|ipynb|js|lock|yml|svg|png|toml)", piece):
        return True
    named = (path.parent / piece).resolve()
    return named.exists() or any(f"/{name}".endswith(f"/{piece}") for name in FILES)


def _is_test_if_it_looks_like_one(piece: str) -> bool:
    name = re.fullmatch(r"(test_\w+)(\[.*\])?", piece)
    return name is None or name[1] in _names_of_tests()


@cache
def _names_of_tests() -> set[str]:
    files = (ROOT / "tests").glob("*/test_*.py")
    return {name for file in files for name, _ in _symbols(file) if name.startswith("test_")}


def _is_metric_if_it_looks_like_one(piece: str) -> bool:
    name = re.match(r"chatlab_[a-z_]+", piece)
    return name is None or f"# HELP {name[0]}" in METRICS


def _is_command_if_it_looks_like_one(piece: str) -> bool:
    words = piece.split()
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the command
        del words[0]
    if words[:1] == ["make"] and len(words) > 1:
        return re.search(rf"^{re.escape(words[1])}:", MAKEFILE, re.MULTILINE) is not None
    if words[:1] != ["chatlab"] or len(words) == 1:
        return True
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands.get(words[1], group)
    options = {
        name
        for parameter in (*command.params, *group.params)
        for name in (*parameter.opts, *parameter.secondary_opts, "--help")
    }
    is_option = words[1].startswith("--")
    given = {word for word in words if word.startswith("--")}
    return (command is not group or is_option) and given <= options


@pytest.mark.parametrize(
    "piece",
    [
        "chatlab serv",
        "chatlab serve --prot 1",
        "make servr",
        "CHATLAB_CACHE_TLT",
        "CHATLAB_FLOW=1 make srve",
        "cache/nothing.py",
        "test_no_such_thing",
        "chatlab_no_such_metric",
    ],
)
def test_a_wrong_name_is_found(piece: str) -> None:
    """The check of the names can fail."""
    assert not _exists(piece, ROOT / "README.md")


def test_every_command_is_in_the_readme() -> None:
    """The README names each command of `chatlab`, and no other."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    named = [re.match(r"chatlab (\w+)", piece) for piece in read_page(ROOT / "README.md").code]
    assert {name[1] for name in named if name} == set(group.commands)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_row(name: str) -> None:
    """The row shows the default and the description of the setting."""
    field = Settings.model_fields[name]
    row = re.search(rf"^\| `{PREFIX}{name.upper()}` \| (.*?) \| (.*) \|$", SETTINGS, re.MULTILINE)
    assert row, f"{name} has no row"
    assert row[2] == field.description
    if name != "data_dir":  # it depends on the user
        assert row[1].strip("`") == ("" if field.default in (None, "") else str(field.default))


def test_the_table_of_layers_agrees_with_the_contract() -> None:
    """The page about the architecture has one row for each layer that import-linter checks."""
    contract = tomllib.loads(PYPROJECT)["tool"]["importlinter"]["contracts"][0]
    layers = [set(layer.replace("chatlab.", "").split(" | ")) for layer in contract["layers"]]
    section = ARCHITECTURE.partition("## Layers")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (\[.*?) \|", section, re.MULTILINE)
    assert [set(re.findall(r"\[`(\w+)(?:\.py|/)`\]", cell)) for cell in cells] == layers


def test_the_table_of_versions_is_in_the_docs() -> None:
    """docs/operations.md has the rows of the code, and says when they were checked."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = [
        f"| {label} | {'.'.join(map(str, one.number))} | {one.published} | {one.closes} | [announcement]({one.source}) |"
        for label, releases in SAFE_RELEASES.items()
        for one in releases
    ]
    assert [row for row in rows if row not in page] == []
    assert f"last checked on {CHECKED}" in page


@pytest.mark.parametrize(
    ("today", "months"), [(CHECKED, 0), (date(2027, 4, 1), 5), (date(2027, 5, 1), 6)]
)
def test_the_age_of_the_table(today: date, months: int) -> None:
    """It counts in months. The doctor warns from six on."""
    assert months_since_check(today) == months


def test_every_metric_is_described() -> None:
    """The page about operations names each metric of the service."""
    code = " ".join(read_page(ROOT / "docs" / "operations.md").code)
    metrics_of_the_service = re.findall(r"^# HELP (chatlab_\w+) ", METRICS, re.MULTILINE)
    described = re.findall(r"chatlab_\w+", code)
    assert {name for name in metrics_of_the_service if not name.endswith("_created")} == set(
        described
    )
