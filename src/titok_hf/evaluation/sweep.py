"""
Which settings of the sampler suit a checkpoint: each setting makes a few images, and their distance from real images
is measured.

A distance of few images is too large (see `titok_hf.evaluation.frechet`), but by much the same amount for all
settings, so that it orders them; it is not to be compared with numbers of other counts.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from titok_hf.checkpoints.atomic_files import write_atomically
from titok_hf.checkpoints.layout import read_json
from titok_hf.scheduling_maskgit import MaskGitScheduler

from .frechet import FrechetDistance

if TYPE_CHECKING:
    from titok_hf.pipeline_titok import TiTokPipeline

Search = Literal["grid", "hill-climb"]
Setting = dict[str, Any]
"""A value of each of `AXES`."""
ALL_STEPS = "all"
"""How an interval that guides every step is written."""


def read_interval(text: str) -> list[float] | None:
    """A guidance interval from "0.2:0.8", in [0, 1] and in order; None from "all". ValueError for another text."""
    if text == ALL_STEPS:
        return None
    try:
        first, last = map(float, text.split(":"))
        if not 0 <= first <= last <= 1:
            raise ValueError(f"{first} and {last} are no interval in [0, 1]")
    except ValueError as error:
        raise ValueError(
            f"The guidance interval is {text!r}. Write two numbers from 0 to 1, the smaller one first, such as "
            f'"0.2:0.8", or "{ALL_STEPS}".'
        ) from error
    return [first, last]


def read_guidance(text: str) -> str:
    """A kind of guidance; ValueError for autoguidance, which a sweep has no weaker generator for."""
    if text == "autoguidance":
        raise ValueError("guidance is 'autoguidance', and a sweep has no weaker generator. Leave it out.")
    return text


def write_value(value: Any) -> str:
    """The value of an axis as a text that its function in `AXES` reads."""
    if value is None:
        return ALL_STEPS
    return ":".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


AXES: dict[str, Callable[[str], Any]] = {
    "guidance_scale": float,
    "guidance_interval": read_interval,
    "temperature": float,
    "num_inference_steps": int,
    "guidance_schedule": str,
    "mask_schedule": str,
    "sampler": str,
    "guidance": read_guidance,
    "softmax_temperature": float,
    "entropy_bound": float,
    "remask": str,
    "eta": float,
}
"""The fields of `MaskGitScheduler` that a sweep varies, and what reads a value from a text."""
_MEASURES = ("distance", "images_per_second")


@dataclass(frozen=True)
class Measured:
    """
    One setting and what was measured of it.

    Args:
        setting: a value of each of `AXES`.
        distance: Fréchet distance of its images from the real ones.
        images_per_second: speed of sampling and decoding.
    """

    setting: Setting
    distance: float
    images_per_second: float


class SweepRecord:
    """
    The folder of a sweep: `sweep.json` says what the numbers depend on, `sweep.csv` has a row for each setting.

    The table is replaced as a whole after each setting, so that a killed sweep goes on after its last row.

    Args:
        folder: made if missing.
        convention: what the numbers depend on, JSON types.
    Raises:
        ValueError: the folder has a sweep with another convention.
        OSError: a file that cannot be read or written.
    """

    def __init__(self, folder: str | Path, convention: Mapping[str, Any]) -> None:
        self.table = Path(folder) / "sweep.csv"
        path = Path(folder) / "sweep.json"
        self.measured: list[Measured] = []
        if not path.is_file():
            write_atomically(path, (json.dumps(dict(convention), indent=2) + "\n").encode())
            return
        earlier = read_json(path)
        for name in [*convention, *earlier]:
            if earlier.get(name) != convention.get(name):
                raise ValueError(
                    f"{folder} has a sweep with {name} {earlier.get(name)!r}, and this one has "
                    f"{convention.get(name)!r}. Their numbers cannot be compared; choose another folder."
                )
        if self.table.is_file():
            self.measured = list(_read_table(self.table))

    def find(self, setting: Setting) -> Measured | None:
        """What was measured of a setting, if it was."""
        return next((measured for measured in self.measured if measured.setting == setting), None)

    def add(self, measured: Measured) -> None:
        """Writes the row of one more setting."""
        self.measured.append(measured)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*AXES, *_MEASURES])
        for each in self.measured:
            values = [write_value(each.setting[name]) for name in AXES]
            writer.writerow([*values, each.distance, each.images_per_second])
        write_atomically(self.table, stream.getvalue().encode())

    @property
    def best(self) -> Measured:
        """The setting with the smallest distance, the first of equal ones."""
        return min(self.measured, key=lambda measured: measured.distance)


def _read_table(path: Path) -> Iterator[Measured]:
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            try:
                setting = {name: read(row[name]) for name, read in AXES.items()}
                yield Measured(setting, *(float(row[name]) for name in _MEASURES))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"Row {number} of {path} is not one of a sweep ({error}). Remove it.") from error


class SettingMeter:
    """
    Measures settings, each on images of the same classes from the same random numbers.

    Image i shows class i modulo the number of classes and has random numbers of its own, so that neither the batch
    size nor the other settings change it.

    Args:
        pipeline: with a generator; its scheduler is replaced while a setting is measured.
        distance: which has seen the real images.
        num_images: images of each setting, at least 2.
        seed: of the images.
        batch_size: images made at once.
        rank, world_size: of this process, which makes every `world_size`-th image. The distance is that of the images
            of all processes.
    Raises:
        ValueError: too few images.
    """

    def __init__(
        self,
        pipeline: TiTokPipeline,
        distance: FrechetDistance,
        num_images: int,
        seed: int = 0,
        batch_size: int = 32,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_images < 2:
            raise ValueError(f"num_images is {num_images}. A distance needs at least two images.")
        self.pipeline, self.distance, self.batch_size = pipeline, distance, batch_size
        images = range(rank, num_images, world_size)
        self.labels = [index % pipeline.classes.num_classes for index in images]
        states = (np.random.SeedSequence((seed, index)).generate_state(1, np.uint64) for index in images)
        self.seeds = [int(state[0]) for state in states]

    def __call__(self, setting: Setting) -> Measured:
        """Makes the images of a setting and measures them; ValueError if the scheduler does not accept it."""
        scheduler = self.pipeline.scheduler
        self.distance.reset(real=False)
        seconds = 0.0
        try:
            self.pipeline.scheduler = scheduler_with(scheduler, setting)
            for first in range(0, len(self.labels), self.batch_size):
                rows = slice(first, first + self.batch_size)
                generators = [torch.Generator().manual_seed(seed) for seed in self.seeds[rows]]
                start = time.monotonic()
                # The copy waits for a GPU to finish.
                images = self.pipeline(self.labels[rows], generator=generators, output_type="pt").images.cpu()
                seconds += time.monotonic() - start
                self.distance.update(images, real=False)
        finally:
            self.pipeline.scheduler = scheduler
        return Measured(setting, self.distance.compute(), len(self.labels) / seconds)


def scheduler_with(scheduler: MaskGitScheduler, setting: Setting) -> MaskGitScheduler:
    """A scheduler that differs in the values of a setting; ValueError for values that it does not accept."""
    return MaskGitScheduler.from_config(scheduler.config, **setting)


def setting_of(scheduler: MaskGitScheduler) -> Setting:
    """The setting that a scheduler has."""
    setting = {name: scheduler.config[name] for name in AXES}
    interval = setting["guidance_interval"]
    return setting | {"guidance_interval": None if interval is None else [float(end) for end in interval]}


def sweep(
    own: Setting,
    axes: Mapping[str, Sequence[Any]],
    measure: Callable[[Setting], Measured],
    record: SweepRecord,
    search: Search = "grid",
    on_measured: Callable[[Measured], object] = lambda measured: None,
) -> Measured:
    """
    Measures settings and records each. Settings that the record has are not measured again.

    Args:
        own: the setting of the checkpoint; axes that are not varied keep its values.
        axes: values to try, by the names in `AXES`.
        measure: what measures a setting, such as a `SettingMeter`.
        record: of this sweep.
        search: `"grid"` measures every combination. `"hill-climb"` starts at the middle of each axis, or at the
            checkpoint's own value where it is among the values, and goes to the best setting that lies one value
            further along one axis, until none is better.
        on_measured: called with each setting, also with those that were recorded earlier.
    Returns:
        the best setting of all that are recorded.
    Raises:
        ValueError: no axis, an axis that does not exist, an axis without values, or an unknown search.
    """
    axes = {name: list(dict.fromkeys(map(write_value, values))) for name, values in axes.items()}
    for name, values in axes.items():
        if name not in AXES or not values:
            raise ValueError(f"The axis {name!r} with values {values} cannot be swept. Give values for {list(AXES)}.")
    if not axes:
        raise ValueError(f"No axis is given. Name values to try for at least one of {list(AXES)}.")
    if search not in ("grid", "hill-climb"):
        raise ValueError(f'search is {search!r}. Use "grid" or "hill-climb".')

    def look_at(position: tuple[int, ...]) -> float:
        chosen = {name: AXES[name](axes[name][index]) for name, index in zip(axes, position, strict=True)}
        measured = record.find(own | chosen)
        if measured is None:
            measured = measure(own | chosen)
            record.add(measured)
        on_measured(measured)
        return measured.distance

    if search == "grid":
        for position in product(*(range(len(values)) for values in axes.values())):
            look_at(position)
    else:
        starts = (write_value(own[name]) for name in axes)
        start = tuple(
            values.index(value) if value in values else len(values) // 2
            for values, value in zip(axes.values(), starts, strict=True)
        )
        _climb(start, [len(values) for values in axes.values()], look_at)
    return record.best


def _climb(position: tuple[int, ...], lengths: list[int], look_at: Callable[[tuple[int, ...]], float]) -> None:
    """From a position to the best neighbour on the grid, until no neighbour is better."""
    lowest, previous = look_at(position), math.inf
    while lowest < previous:
        previous = lowest
        neighbours = [
            (*position[:axis], position[axis] + step, *position[axis + 1 :])
            for axis, length in enumerate(lengths)
            for step in (-1, 1)
            if 0 <= position[axis] + step < length
        ]
        distances = {neighbour: look_at(neighbour) for neighbour in neighbours}
        best = min(distances, key=distances.__getitem__, default=position)
        if distances.get(best, math.inf) < lowest:
            position, lowest = best, distances[best]


def write_setting(folder: str | Path, setting: Setting) -> Path:
    """
    Makes a setting the default of a pipeline on this machine. The file is replaced as a whole, other fields stay.

    Args:
        folder: of the pipeline.
    Returns:
        the path of the scheduler's configuration.
    Raises:
        OSError: no such file, or one that cannot be written.
    """
    path = Path(folder) / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Name the folder of a pipeline on this machine.")
    config = read_json(path) | setting
    return write_atomically(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


__all__ = [
    "AXES",
    "Measured",
    "SettingMeter",
    "SweepRecord",
    "read_guidance",
    "read_interval",
    "scheduler_with",
    "setting_of",
    "sweep",
    "write_setting",
    "write_value",
]
