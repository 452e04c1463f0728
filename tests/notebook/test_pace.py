"""The notebooks at other paces than that of nbval: as people read them, and all cells at once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import series
from jupyter_client.manager import start_new_async_kernel
from waiting import LIMIT_S

TESTS = Path(__file__).parents[1]

each_notebook = pytest.mark.parametrize("path", series.paths(), ids=lambda path: path.stem)


@pytest.mark.paced
@pytest.mark.timeout(1800)
@each_notebook
def test_outputs_are_the_same_at_a_reading_pace(path: Path) -> None:
    """With 10 seconds between two cells, every output is the committed one."""
    options = ["-n", "0", "-m", "", "-p", "reading_pace", "--timeout=1800", "--no-header", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=series.FOLDER.parent,
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{series.FOLDER.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


async def run_at_once(
    client: Any, sources: list[str], *, stop_on_error: bool
) -> list[dict[str, Any]]:
    """Give the kernel all these cells at once, as Run All does, and return the reply to each."""
    ids = [client.execute(source, stop_on_error=stop_on_error) for source in sources]
    replies: dict[str, dict[str, Any]] = {}
    while not replies.keys() >= {*ids}:
        message = await client.get_shell_msg(timeout=LIMIT_S)
        replies[message["parent_header"]["msg_id"]] = message["content"]
    return [replies[number] for number in ids]


def sessions_of(path: Path) -> list[Path]:
    """Return the folders of the sessions that this notebook has started and not ended."""
    return list(Path(os.environ["CHATLAB_DATA_DIR"], "lab").glob(f"lab_{path.name[:2]}_*"))


@pytest.mark.slow
@each_notebook
async def test_all_cells_at_once_and_each_one_after_the_end(path: Path) -> None:
    """Run All works, including the last cell, which leaves nothing behind.

    After it, a cell either needs no session, or says in one sentence how to start one again.
    """
    cells = [cell.source for cell in series.read(path).cells if cell.cell_type == "code"]
    manager, client = await start_new_async_kernel(cwd=str(path.parent))
    try:
        replies = await run_at_once(client, cells, stop_on_error=True)
        assert [reply for reply in replies if reply["status"] != "ok"] == []
        assert sessions_of(path) == []

        again = [cell for cell in cells if "await start(" not in cell]
        replies = await run_at_once(client, again, stop_on_error=False)
        long = [
            (cell, reply["traceback"])
            for cell, reply in zip(again, replies, strict=True)
            if reply["status"] == "error" and len(reply["traceback"]) > 1
        ]
        assert long == []
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
