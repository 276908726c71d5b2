"""What loading the bundled pipeline by Hub id from a warm cache costs beside loading its folder.

    PYTHONPATH=tests python benchmarks/loading.py --rounds 7

The Hub is the tests' own, on this machine: real HTTP and the real client, without the way through the internet.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Alternates between both ways in one process, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    from hub_server import local_hub

    with tempfile.TemporaryDirectory() as cache, local_hub() as hub:
        # Before the client is imported, which reads it then.
        os.environ.update(hub.environment(Path(cache)), HF_HUB_DISABLE_PROGRESS_BARS="1")
        from titok_hf import TiTokPipeline, bundled_checkpoint
        from titok_hf.checkpoints.push import push_folder

        folder = bundled_checkpoint()
        push_folder(folder, "user/bundled")
        hub.fetched.clear()
        TiTokPipeline.from_pretrained("user/bundled")
        print(f"first load: {len(hub.fetched)} files downloaded, of {sum(1 for _ in Path(folder).rglob('*.*'))}")
        times: dict[str, list[float]] = {"folder": [], "warm cache": []}
        for _ in range(rounds):
            hub.requests.clear()
            times["folder"].append(seconds(lambda: TiTokPipeline.from_pretrained(folder)))
            times["warm cache"].append(seconds(lambda: TiTokPipeline.from_pretrained("user/bundled")))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name}: median {median:.3f} s, from {min(times[name]):.3f} to {max(times[name]):.3f}")
    extra = medians["warm cache"] - medians["folder"]
    print(f"the id costs {extra:.3f} s more, with {len(hub.requests)} request(s) to the Hub")


if __name__ == "__main__":
    main()
