"""The working copy of the notebooks: a folder that belongs to the learner.

Its notebooks have no outputs and no solutions, so that nothing gives an answer away. A file that
the learner has changed is never overwritten: RECORD, a file of the copy, has the digest of each
file as it was written.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chatlab
from chatlab.errors import EngineError

RECORD = ".chatlab.json"
PACKAGE = Path(chatlab.__file__).parent
PAGE = re.compile(r"\]\(\.\./(docs/[\w-]+\.md)")  # a link from a notebook to a page of docs/


def in_repository() -> bool:
    """Return True if chatlab runs from a clone of its repository, and False from a wheel."""
    return not (PACKAGE / "notebooks").is_dir()


def shipped() -> Path:
    """Return the folder with the notebooks: that of the repository, or the one in the wheel."""
    return (PACKAGE.parent if in_repository() else PACKAGE) / "notebooks"


def prepare(folder: Path, *, fresh: bool) -> tuple[Path, list[str]]:
    """Create a working copy, or update it, and return its folder and its outdated files.

    An outdated file is one that the learner has changed, while the package has a newer one. With
    `fresh`, a new copy is created next to the folder if that exists. Raises EngineError if the
    folder holds something else, or cannot be written.
    """
    try:
        folder = folder.resolve()
        return _update(_beside(folder) if fresh else folder)
    except OSError as error:
        raise EngineError(
            f"Cannot make a working copy of the notebooks in {folder}: {error.strerror or error}.",
            "chatlab lab ANOTHER_FOLDER",
        ) from None


def _beside(folder: Path) -> Path:
    names = (f"{folder.name}-{number}" for number in itertools.count(2))
    candidates = itertools.chain([folder], map(folder.with_name, names))
    return next(candidate for candidate in candidates if not candidate.exists())


def _update(folder: Path) -> tuple[Path, list[str]]:
    record = _read_record(folder)
    outdated = []
    for name, text in _files():
        file, digest = folder / name, _digest(text.encode())
        if file.exists() and _digest(file.read_bytes()) != record.get(name):
            if record.get(name) != digest:
                outdated.append(name)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            record[name] = digest
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return folder, outdated


def _read_record(folder: Path) -> dict[str, str]:
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    try:
        record: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise EngineError(
            f"{folder} is not empty, and not a working copy of the notebooks.",
            "chatlab lab ANOTHER_FOLDER",
        ) from None
    return record


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- what is copied -------------------------------------------------------------------------------


def _files() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file of a copy. Pages of docs/ become a folder in it."""
    pages = set[str]()
    for file in sorted(shipped().iterdir()):
        if file.suffix in (".ipynb", ".md"):
            text = file.read_text(encoding="utf-8")
            pages.update(PAGE.findall(text))
            text = PAGE.sub(r"](\1", text)
            yield file.name, _without_outputs(text) if file.suffix == ".ipynb" else text
    for page in sorted(pages):
        yield page, (shipped().parent / page).read_text(encoding="utf-8")


def _without_outputs(text: str) -> str:
    """Return a notebook without its outputs and without the solutions in the metadata of cells."""
    notebook: dict[str, Any] = json.loads(text)
    for cell in notebook["cells"]:
        cell["metadata"].pop("chatlab", None)
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
