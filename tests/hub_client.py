"""Pytest plugin for the files `client_*.py`, each of which runs in a process of its own: a Hub, and an empty cache.

The client reads where the Hub is when it is imported. So this plugin is loaded before everything else (`pytest -p`),
and the Hub runs in the same process, where tests can look into it and make it fail.
"""

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hub_server import Fault, LocalHub, local_hub

assert "huggingface_hub" not in sys.modules
_stack = ExitStack()
atexit.register(_stack.close)
HUB: LocalHub = _stack.enter_context(local_hub())
CACHE = Path(_stack.enter_context(tempfile.TemporaryDirectory(prefix="titok-hf-client-")))
os.environ.update(HUB.environment(CACHE), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """The Hub without faults and with an empty record."""
    HUB.requests.clear()
    HUB.fetched.clear()
    HUB.faults.clear()
    yield HUB
    HUB.faults.clear()


@contextmanager
def failing(*faults: Fault) -> Iterator[None]:
    """A block in which requests go wrong."""
    HUB.faults.extend(faults)
    try:
        yield
    finally:
        HUB.faults.clear()
