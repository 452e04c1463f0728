"""The package reads from top to bottom: a module imports only from those above it in `chatlab.READING_ORDER`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatlab

PACKAGE = Path(chatlab.__file__).parent
UNREAD = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # the title page, and `python -m chatlab`, which is `cli`
SOURCES = sorted(set(PACKAGE.rglob("*.py")) - UNREAD)


def place(path: Path) -> str:
    """`store` for chatlab/store.py, `lab` for everything in the folder chatlab/lab/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted_names(node: ast.AST, package: str) -> Iterator[str]:
    """What one statement imports, as full dotted names; `package` is what a leading dot stands for."""
    match node:
        case ast.Import(names=names):
            yield from (name.name for name in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            yield from (".".join([*above, *filter(None, [module]), name.name]) for name in names)
        case ast.Call(
            func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
        ):
            yield name


def imported(source: str, package: str = "chatlab") -> set[str]:
    """The modules of chatlab that a source imports anywhere: at its top, in a function, for types only, by name at run time."""
    names = {name for node in ast.walk(ast.parse(source)) for name in dotted_names(node, package)}
    parts = [name.split(".") for name in names]
    return {rest[0] for first, *rest in parts if first == "chatlab" and rest} - {"__version__", "READING_ORDER"}


def breaches(module: str, source: str, package: str = "chatlab") -> set[str]:
    """What a module imports although it is not above it. The files of one folder may import each other."""
    order = chatlab.READING_ORDER
    own = {module} if (PACKAGE / module).is_dir() else set()
    return imported(source, package) - set(order[: order.index(module)]) - own


def test_every_module_has_its_place() -> None:
    """The reading order names each module of the package once, and nothing else."""
    assert sorted(chatlab.READING_ORDER) == sorted({place(path) for path in SOURCES})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_above(path: Path) -> None:
    """Whoever reads in order never meets a name that was not explained yet."""
    package = ".".join(["chatlab", *path.relative_to(PACKAGE).parts[:-1]])
    assert breaches(place(path), path.read_text(encoding="utf-8"), package) == set()


def test_the_service_does_not_know_the_notebooks() -> None:
    """`lab` is last, so nobody but itself may import it."""
    assert chatlab.READING_ORDER[-1] == "lab"


@pytest.mark.parametrize(
    "source",
    [
        "import chatlab.service",
        "from chatlab import service",
        "from chatlab.service import Service",
        "from .service import Service",
        "from . import service",
        "def late():\n    from chatlab.service import Service",
        "if TYPE_CHECKING:\n    from chatlab.service import Service",
        "import_module('chatlab.service')",
        "importlib.import_module('chatlab.service')",
    ],
)
def test_an_import_from_below_is_found(source: str) -> None:
    """This check can fail: however `store` imports the service, which is below it, it is seen."""
    assert breaches("store", source) == {"service"}


def test_an_import_of_the_notebooks_side_is_found() -> None:
    """The command line is the last above `lab`, and still may not import it."""
    assert breaches("cli", "from chatlab.lab.session import Session") == {"lab"}


def test_an_import_from_above_is_fine() -> None:
    """What is above, what is not ours, and the other files of `lab` are no breach."""
    assert breaches("service", "import json\nfrom chatlab.store import Store\nfrom chatlab import __version__, errors") == set()
    assert breaches("lab", "from .widgets import Bar\nfrom ..app import create_app\nfrom . import checks", "chatlab.lab") == set()
