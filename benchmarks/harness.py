"""What the speed benchmarks share: interleaved timing, the machine's description, peak memory, results as JSON."""

import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""Processor time hardly depends on what else the machine does, but is meaningful with one thread only."""


@dataclass
class Row:
    """One line of a table: the seconds of each way in each round. Others are compared with the first way."""

    section: str
    name: str
    seconds: dict[str, list[float]]
    values: dict[str, Any] = field(default_factory=dict)

    def ratios(self, way: str) -> list[float]:
        """How many times as fast as the first way, in each round."""
        first = next(iter(self.seconds.values()))
        return [theirs / ours for theirs, ours in zip(first, self.seconds[way], strict=True)]


def race(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: str = "wall",
    device: str = "cpu",
    warm_up: bool = True,
    limit: float = math.inf,
) -> dict[str, list[float]]:
    """
    Seconds of each way in each round, all ways by turns in this process.

    Args:
        warm_up: whether a round that is not counted comes first.
        limit: seconds, of the wall, after which no further round begins; at least one is counted.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    start_of_all = time.perf_counter()
    for number in range(-1 if warm_up else 0, rounds):
        if number > 0 and time.perf_counter() - start_of_all > limit:
            break
        for name, way in ways.items():
            synchronize(device)
            start = now()
            way()
            synchronize(device)
            if number >= 0:
                seconds[name].append(now() - start)
    return seconds


def synchronize(device: str) -> None:
    """Wait until the device has done all work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def spread(values: list[float], unit: float = 1.0, digits: int = 2) -> str:
    """The minimum, median and maximum as text."""
    return " / ".join(f"{value * unit:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def machine(device: str) -> dict[str, Any]:
    """What a figure depends on."""
    information = Path("/proc/cpuinfo")
    fields = dict(
        [part.strip() for part in line.split(":", 1)]
        for line in (information.read_text().splitlines() if information.exists() else [])
        if ":" in line
    )
    names = ("torch", "transformers", "diffusers", "titok-hf")
    described = {
        "processor": fields.get("model name", platform.processor()),
        "family": f"{fields.get('cpu family', '?')}, model {fields.get('model', '?')}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }
    if torch.device(device).type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def in_new_process(script: str, *arguments: str) -> Any:
    """The JSON that the last line of a script's output holds; it runs in a fresh process."""
    command = [sys.executable, script, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def peak_memory(process: int | None = None) -> float:
    """
    The largest resident memory of this process so far, or on Linux of another one, in GiB.

    Linux counts the peak of the parent as that of a started process too (`ru_maxrss`), so it is read from /proc there.
    """
    status = Path("/proc") / (str(process) if process else "self") / "status"
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def write(folder: Path, section: str, settings: dict[str, Any], rows: list[Row]) -> Path:
    """The results of a section as JSON, with the machine and the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{section}.json"
    rows_as_json = [vars(row) for row in rows]
    values = {"machine": machine(settings["device"]), "settings": settings, "rows": rows_as_json}
    path.write_text(json.dumps(values, indent=1, default=str) + "\n")
    return path


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Machine and settings, and the rows, of one file of [`write`]."""
    values = json.loads(path.read_text())
    return {"machine": values["machine"], "settings": values["settings"]}, [Row(**row) for row in values["rows"]]
