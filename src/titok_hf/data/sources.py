"""Where images come from: anything that `datasets` reads, as numbered files that nobody has decoded yet."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    Image,
    IterableDataset,
    Value,
    disable_progress_bars,
    load_dataset,
    load_dataset_builder,
)
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .idx_files import is_idx_folder, load_idx_folder
from .image_folders import load_image_folder
from .records import SOURCE_INDEX, Record
from .tar_files import open_tar_files

# Columns that carry the class where the data set does not say so: `datasets` names webdataset columns by file suffix.
_USUAL_LABEL_COLUMNS = ("label", "cls")
NO_LABELS = "none"

# A folder with one of these holds a split in each.
_SPLIT_FOLDERS = ("test", "validation", "valid", "val", "dev")

_READ_BATCH_SIZE = 64


class Source:
    """
    The images of a data set in a fixed order.

    Args:
        dataset: map-style or streaming.
        image_column, label_column: names; by default the only column of that type. The label column "none" is none.
        limit: use only so many images from the start.

    Attributes:
        label_names: names of the classes, None for labels without names or no labels.
        has_labels: whether there is a label column.
        num_images: None for a stream, whose length is known at its end.

    Raises:
        ValueError: no such column, or several that could be meant.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        image_column: str | None = None,
        label_column: str | None = None,
        limit: int | None = None,
    ) -> None:
        if dataset.features is None:
            dataset = dataset._resolve_features()  # the way of `datasets` to look at the first examples of a stream
        self.image_column = _image_column(dataset, image_column)
        self.label_column = _label_column(dataset, label_column)
        self.has_labels = self.label_column is not None
        self.label_names: list[str] | None = None
        self._number_of_text: dict[Any, int] | None = None
        self._limit = limit
        self.num_images: int | None = None
        if isinstance(dataset, Dataset):
            self.num_images = len(dataset) if limit is None else min(limit, len(dataset))
        if self.label_column is not None:
            self._read_label_names(dataset)
        self._has_index = SOURCE_INDEX in dataset.features
        columns = [self.image_column, self.label_column, SOURCE_INDEX if self._has_index else None]
        dataset = dataset.select_columns([column for column in columns if column is not None])
        self._dataset = dataset.cast_column(self.image_column, Image(decode=False))
        self._stream: Iterator[Record] = iter(())
        self._peeked: Record | None = None
        self._stream_position: int | None = None

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """
        The images from number `start` up to `stop`, fewer where the source ends. A stream is read forward only, so
        `start` must not be below an earlier `stop`.
        """
        if self.num_images is not None:
            yield from self._rows(start, min(stop, self.num_images))
            return
        stop = stop if self._limit is None else min(stop, self._limit)
        self._skip_to(start)
        for number in range(start, stop):
            record = self._next()
            if record is None:
                return
            self._stream_position = number + 1
            yield record

    def take(self, numbers: list[int]) -> list[Record]:
        """The images of these numbers, in this order; not of a stream."""
        rows = self._dataset[numbers]
        return [
            self._record(number, {column: values[position] for column, values in rows.items()})
            for position, number in enumerate(numbers)
        ]

    def reaches(self, index: int) -> bool:
        """Whether there is an image of this number. Of a stream, only the next one may be asked for."""
        if self.num_images is not None:
            return index < self.num_images
        if self._limit is not None and index >= self._limit:
            return False
        self._skip_to(index)
        self._peeked = self._next()
        return self._peeked is not None

    def _rows(self, start: int, stop: int) -> Iterator[Record]:
        for first in range(start, stop, _READ_BATCH_SIZE):
            batch = self._dataset[first : min(first + _READ_BATCH_SIZE, stop)]
            for position in range(len(batch[self.image_column])):
                yield self._record(first + position, {column: values[position] for column, values in batch.items()})

    def _skip_to(self, index: int) -> None:
        if self._stream_position is None:
            rows = self._dataset.skip(index) if index else self._dataset
            self._stream = (self._record(number, row) for number, row in zip(itertools.count(index), rows))
            self._stream_position = index
        for _ in range(index - self._stream_position):
            self._next()
        self._stream_position = index

    def _next(self) -> Record | None:
        """The next image of a stream, whether it was looked at before or not; None at the end."""
        record, self._peeked = self._peeked or next(self._stream, None), None
        return record

    def _record(self, index: int, row: dict[str, Any]) -> Record:
        image = row[self.image_column] or {"bytes": None, "path": None}
        label = row[self.label_column] if self.label_column is not None else None
        if self._number_of_text is not None:
            label = self._number_of_text.get(label)
        elif isinstance(label, bytes):
            label = number_in(label)
        source_index = row[SOURCE_INDEX] if self._has_index else index
        return Record(source_index, image["bytes"], image["path"], label)

    def _read_label_names(self, dataset: Dataset | IterableDataset) -> None:
        feature = dataset.features[self.label_column]
        if isinstance(feature, ClassLabel):
            self.label_names = list(feature.names)
        elif isinstance(feature, Value) and "string" in feature.dtype:
            if not isinstance(dataset, Dataset):
                raise ValueError(
                    f"The labels in {self.label_column!r} are texts, and a stream does not tell all of them in "
                    "advance. Prepare without streaming, or cast the column to ClassLabel."
                )
            self.label_names = sorted(name for name in dataset.unique(self.label_column) if name is not None)
            self._number_of_text = {name: number for number, name in enumerate(self.label_names)}


def open_dataset(
    source: str, split: str, config_name: str | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """
    Opens a source by what it looks like.

    Args:
        source: a folder (of images, of Parquet files, of an MNIST-like data set, or with a data-set card); a path,
            pattern or URL of `.parquet` files or of `.tar` shards (webdataset); or the id of a Hub data set.
        split: name of the split. Files that are named directly are that split.
        config_name: configuration of a Hub data set with several.
        streaming: read as it comes, without a copy in the cache.

    Raises:
        FileNotFoundError: a path where nothing lies.
        ValueError: no such split, or a folder that `datasets` cannot make sense of.
    """
    path = Path(source).expanduser()
    if is_idx_folder(path):
        dataset = load_idx_folder(path, split)
        return dataset.to_iterable_dataset() if streaming else dataset
    looks_local = path.is_absolute() or source.startswith((".", "~"))
    if looks_local and "://" not in source and not path.exists() and not glob.glob(str(path)):
        raise FileNotFoundError(f"The data source {source} does not exist. Name a folder, files or a Hub id.")
    files = source if "://" in source else str(path)
    if source.endswith(".tar"):
        return open_tar_files(files, split, streaming)
    if source.endswith(".parquet"):
        return load_dataset("parquet", data_files={split: files}, split=split, streaming=streaming)
    folder = _image_folder(path, split)
    if folder is not None:
        images = load_image_folder(folder)
        if images is not None:
            return images.to_iterable_dataset() if streaming else images
        pattern = f"{glob.escape(str(folder.absolute()))}/**"
        return load_dataset("imagefolder", data_files={split: pattern}, split=split, streaming=streaming)
    name = str(path) if path.exists() else source
    builder = load_dataset_builder(name, config_name)
    if isinstance(builder, WebDataset) and split in builder.config.data_files:
        return open_tar_files(list(builder.config.data_files[split]), split, streaming)
    return load_dataset(name, config_name, split=split, streaming=streaming)


def silence_loading() -> None:
    """Turns off the progress bars of `datasets`, for a program that draws its own."""
    disable_progress_bars()


def _image_folder(folder: Path, split: str) -> Path | None:
    """
    Where the images of a split lie in a folder of images; None for anything else.

    Left to itself, `datasets` takes a folder in which one file is called "steam-train.png" for a data set whose split
    "train" is that one file.
    """
    is_described = (folder / "README.md").exists()
    if not folder.is_dir() or is_described or _holds(folder, "parquet") or _holds(folder, "tar"):
        return None
    if (folder / split).is_dir():
        return folder / split
    if split != "train" or any((folder / name).is_dir() for name in _SPLIT_FOLDERS):
        return None
    return folder


def _holds(folder: Path, suffix: str) -> bool:
    """Whether files of this suffix lie in a folder, or in one of its folders."""
    return any(folder.glob(f"*.{suffix}")) or any(folder.glob(f"*/*.{suffix}"))


def _image_column(dataset: Dataset | IterableDataset, wanted: str | None) -> str:
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if wanted is None and len(images) == 1:
        return images[0]
    wanted = wanted or "image"
    if wanted not in images:
        raise ValueError(
            f"The source has no column {wanted!r} of images. Its columns of images: "
            f"{', '.join(images) or 'none'}; all columns: {', '.join(dataset.features)}. Name one with --image-column."
        )
    return wanted


def _label_column(dataset: Dataset | IterableDataset, wanted: str | None) -> str | None:
    if wanted == NO_LABELS:
        return None
    if wanted is not None:
        if wanted not in dataset.features:
            raise ValueError(
                f"The source has no column {wanted!r}; its columns are {', '.join(dataset.features)}. "
                f"Name the labels with --label-column, or say --label-column {NO_LABELS}."
            )
        return wanted
    classes = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    usual = [name for name in _USUAL_LABEL_COLUMNS if name in dataset.features]
    if len(classes) > 1 and not usual:
        raise ValueError(f"The columns {', '.join(classes)} could all be the label. Name one with --label-column.")
    return usual[0] if usual else classes[0] if classes else None


def number_in(content: bytes | None) -> int | str | None:
    """The number that a member of a webdataset shard holds, or the text that it holds instead; None for no member."""
    if content is None:
        return None
    try:
        return int(content)
    except ValueError:
        return content.decode("utf-8", errors="replace").strip()


__all__ = ["NO_LABELS", "Source", "number_in", "open_dataset", "silence_loading"]
