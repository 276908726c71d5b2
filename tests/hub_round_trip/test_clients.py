"""Runs each `client_*.py` beside this file as tests in a fresh process, whose huggingface_hub talks to a local Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = sorted(Path(__file__).parent.glob("client_*.py"))
TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.stem)
def test_in_a_fresh_process(client):
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The conftest of the other tests keeps them off the network; this process has a Hub of its own instead.
    options = ["-p", "hub_client", "-p", "no:cacheprovider", "--noconftest", "-q", "--tb=short"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(client)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=1800,  # against a process that hangs; a machine with other work takes ten minutes for the guides
    )
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
