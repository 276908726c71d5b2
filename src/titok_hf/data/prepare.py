"""Any data set of images -> square crops in Parquet shards, which `load_dataset` opens and training reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value

from .assembly import OnError, make_shards, write_report
from .cards import library_versions, write_card
from .crops import ImageConverter, PrepareSettings
from .opening import Opened, open_source
from .parallel import available_processors
from .records import SOURCE_INDEX
from .report import Report
from .shards import Part, ShardFolder
from .sources import NO_LABELS, Source

# Readers that shuffle fetch whole row groups, so they stay small.
_ROW_GROUP_SIZE = 100
_CHUNK_SIZE = 16


def prepare(
    source: str | os.PathLike | Dataset | IterableDataset,
    output: str | os.PathLike,
    settings: PrepareSettings | None = None,
    split: str = "train",
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    workers: int | None = None,
    part: Part | None = None,
    on_error: OnError = "skip",
    progress: Callable[[int], object] = lambda num_images: None,
) -> Report:
    """
    Prepares one split of a data set.

    A run that was interrupted goes on where it stopped when it is called again with the same arguments. The files do
    not depend on the number of workers or parts.

    Args:
        source: what `open_dataset` reads, or a data set that is open already.
        output: folder of the new data set. Further splits may be added to it by further calls.
        split, config_name, image_column, label_column, limit, streaming: see `open_dataset` and `Source`.
        workers: processes that decode and encode; 0 computes in this one. By default one a processor. As always with
            processes, a script calls this below `if __name__ == "__main__":`.
        part: makes only these shards, for several machines that share a folder; whichever part ends last completes the
            data set. By default what `accelerate launch` or `torchrun` says, and without them the whole.
        on_error: "skip" lists unusable images in the report, "stop" ends at the first one.
        progress: called with the number of images done since the last call.

    Returns:
        the report of the whole split, or of this part while others are missing.

    Raises:
        ValueError: no such column, an empty source, a folder that was begun with other settings or of which the source
            has changed since, or, with "stop", an unusable image.
        OSError: the folder is in use or cannot be written, the disk is full, or a worker died.
    """
    settings = settings or PrepareSettings()
    part = part or Part.from_environment()
    opened = open_source(source, split, config_name, streaming, label_column)
    images = Source(opened.dataset, image_column, label_column, limit, opened.single_class)
    features = _features(images)
    description = {"kind": "images"} | describe_source(opened, images, split, config_name, limit) | asdict(settings)
    description |= {"versions": library_versions("pillow", "pyarrow")}
    shards = ShardFolder(
        Path(output), split, description, features, settings.shard_size, _ROW_GROUP_SIZE, compression="none"
    )
    workers = available_processors() if workers is None else workers
    convert = ImageConverter(images.label_names, images.has_labels, settings)
    with shards.locked(part):
        report = make_shards(images, shards, convert, _CHUNK_SIZE, workers, part, on_error, progress=progress)
        complete = write_report(
            shards, opened.unused, reason_for_no_labels(opened, images, label_column), opened.folder
        )
        if complete is not None:
            _write_card(Path(output), features, description, settings)
        return complete or report


def _features(images: Source) -> Features:
    columns: dict[str, Any] = {"image": Image()}
    columns |= label_feature(images)
    return Features(columns | {SOURCE_INDEX: Value("int64")})


def label_feature(images: Source) -> dict[str, Any]:
    """The label's column as a feature, or nothing if there are no labels."""
    if not images.has_labels:
        return {}
    return {"label": Value("int64") if images.label_names is None else ClassLabel(names=images.label_names)}


def describe_source(
    opened: Opened, images: Source, split: str, config_name: str | None, limit: int | None
) -> dict[str, Any]:
    """The source as plain values, part of the settings that a folder is bound to."""
    return {
        "source": opened.name,
        "listing": opened.digest,
        "config_name": config_name,
        "split": split,
        "limit": limit,
        "num_images": images.num_images,
        "image_column": images.image_column,
        "label_column": images.label_column,
        "label_names": images.label_names,
    }


def reason_for_no_labels(opened: Opened, images: Source, label_column: str | None) -> str | None:
    """Why a data set has no labels; None if it has some, or if none were wanted."""
    if images.has_labels or label_column == NO_LABELS:
        return None
    return opened.no_labels or "the source has no column of classes"


def _write_card(folder: Path, features: Features, description: dict[str, Any], settings: PrepareSettings) -> None:
    shape = "resized, not cropped" if settings.crop == "none" else "square"
    introduction = (
        f"RGB images, shorter edge {settings.image_size} pixels, {shape}. `source_index` is the number of the image "
        "in the source."
    )
    facts = {name: value for name, value in description.items() if name not in ("kind", "label_names", "limit")}
    title, reports = f"Images at {settings.image_size} pixels", split_reports(folder)
    code = f'\nimage = dataset["{next(iter(reports))}"][0]["image"]'
    write_card(folder, title, introduction, code, features, reports, facts)


def split_reports(folder: Path) -> dict[str, Report]:
    """The reports of the splits that are complete, by name."""
    return {path.stem.partition("-")[2]: Report.read(path) for path in sorted(folder.glob("report-*.json"))}


__all__ = ["PrepareSettings", "describe_source", "label_feature", "prepare", "reason_for_no_labels", "split_reports"]
