"""The whole contract holds on servers with several members."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
CONTRACT = (
    "tests/engine/test_contract_http.py",
    "tests/engine/test_both_transports.py",
    "tests/engine/test_mongodb_commands.py",
    "tests/processes/test_contract_sockets.py",
)


@pytest.mark.parametrize("option", ["--replica-set", "--redis-cluster", "--sentinel"])
def test_the_contract_holds_on_several_members(option: str) -> None:
    """The tests of the contract pass when MongoDB has three members, on a Redis Cluster, and with Sentinel."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", option, *CONTRACT]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
