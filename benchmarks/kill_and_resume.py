"""Prepares and pretokenises real images without interruption, with two kill -9, and in two processes; compares bytes.

    python benchmarks/real_images.py /tmp/real-images
    python benchmarks/kill_and_resume.py /tmp/real-images /tmp/results

The model is the bundled one. Exits with an error if any file differs.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CLI = [sys.executable, "-m", "titok_hf.cli"]
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]


def run(command: list[str]) -> float:
    """Seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def run_until_shards(command: list[str], output: Path, num_shards: int) -> None:
    """Starts a command and kills it once so many shards are whole."""
    process = subprocess.Popen(command)
    while len(list((output / "data").glob("train-*"))) < num_shards and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    print(f"killed (exit code {process.wait()}) with {len(list((output / 'data').glob('train-*')))} whole shards")


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a data set."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compare(name: str, folder: Path, other: Path) -> None:
    """Ends the program if two data sets differ."""
    ours, theirs = content(folder), content(other)
    different = [path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)]
    if different:
        sys.exit(f"{name}: these files differ: {', '.join(sorted(different))}")
    print(f"{name}: {len(ours)} files, {sum(map(len, ours.values())) / 1e6:.1f} MB, all bytes equal")


def check(arguments: list[str], output: Path, workers: int) -> None:
    """One command in the ways that must not matter."""
    straight, killed, two = (output / f"{arguments[0]}-{name}" for name in ("straight", "killed", "two-processes"))
    options = ["--shard-size", "500", "--workers"]

    def command(folder: Path, workers: int) -> list[str]:
        return [*arguments, "-o", str(folder), *options, str(workers)]

    seconds = run([*CLI, *command(straight, workers)])
    print(f"{arguments[0]}: {seconds:.0f} s without interruption")
    for num_shards in (2, 7):
        run_until_shards([*CLI, *command(killed, workers)], killed, num_shards)
    run([*CLI, *command(killed, workers)])
    compare(f"{arguments[0]}, killed twice", straight, killed)
    seconds = run([*TWO_PROCESSES, "-m", "titok_hf.cli", *command(two, 0)])
    print(f"{seconds:.0f} s in two processes")
    compare(f"{arguments[0]}, two processes", straight, two)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    check(["prepare", options.source], options.output, options.workers)
    check(["pretokenize", options.source, "--views", "flip"], options.output, options.workers)
