"""What every test stands on: no network, nothing of the user's caches, the same random numbers, few threads."""

import os
import sys
import tempfile

# Libraries read these when they are imported, so they come first; processes that tests start inherit them.
_cache = tempfile.TemporaryDirectory(prefix="titok-hf-tests-")
os.environ["HF_HOME"] = _cache.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Two threads, for several are another path through the kernels than one; but no more than this process's share of the
# machine where pytest-xdist runs several processes: threads that wait for a processor are slower than none.
_share = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(2, _share))))

import random  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


def _refuse_the_network(event: str, arguments: tuple) -> None:
    """Audit hook: a connection to anything but this machine is an error of the test."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "::1") and not str(host).startswith("127."):
            raise RuntimeError(f"a test connects to {address!r}. Tests run offline: give it the data it needs.")


sys.addaudithook(_refuse_the_network)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test starts from the same global seeds, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
