"""Where images come from: anything that `datasets` reads, as numbered files that are not decoded yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from datasets import ClassLabel, Dataset, Image, IterableDataset, Value, disable_progress_bars
from datasets.utils import logging

from . import columns
from .columns import NO_LABELS
from .opening import open_source
from .records import ERROR, SOURCE_INDEX, Record

_READ_BATCH_SIZE = 64


class Source:
    """
    The images of a data set in a fixed order.

    Args:
        dataset: map-style or streaming.
        image_column, label_column: names; by default the only column of that type. The label column "none" is none.
        limit: use only so many images from the start.
        single_class: name of the one class of a source without labels, to which then all images belong.

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
        single_class: str | None = None,
    ) -> None:
        if dataset.features is None:
            dataset = dataset._resolve_features()  # the way of `datasets` to look at the first examples of a stream
        if isinstance(dataset, IterableDataset):
            # `datasets` decodes a stream from the Hub in threads of its own, and a later cast comes too late for them.
            dataset = dataset.decode(False)
        self.image_column = columns.image_column(dataset, image_column)
        self.label_column = columns.label_column(dataset, label_column)
        self._is_single_class = self.label_column is None and label_column is None and single_class is not None
        self.has_labels = self.label_column is not None or self._is_single_class
        self.label_names: list[str] | None = [str(single_class)] if self._is_single_class else None
        self._number_of_text: dict[Any, int] | None = None
        self._limit = limit
        self.num_images: int | None = None
        if isinstance(dataset, Dataset):
            self.num_images = len(dataset) if limit is None else min(limit, len(dataset))
        if self.label_column is not None:
            self._read_label_names(dataset)
        self._has_index = "int" in getattr(dataset.features.get(SOURCE_INDEX), "dtype", "")
        used = [self.image_column, self.label_column]
        used += [SOURCE_INDEX] * self._has_index + [ERROR] * (dataset.features.get(ERROR) == Value("string"))
        dataset = dataset.select_columns([column for column in used if column is not None])
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
        label = row[self.label_column] if self.label_column is not None else 0 if self._is_single_class else None
        if self._number_of_text is not None:
            label = self._number_of_text.get(label)
        elif isinstance(label, bytes):
            label = number_in(label)
        source_index = row[SOURCE_INDEX] if self._has_index else index
        return Record(source_index, image["bytes"], image["path"], label, row.get(ERROR))

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
    source: str,
    split: str,
    config_name: str | None = None,
    streaming: bool = False,
    label_column: str | None = None,
) -> Dataset | IterableDataset:
    """
    Opens a source by what it looks like.

    Labels have the same numbers in all splits of the source: classes are those of all splits together, and texts in
    the column of labels become classes.

    Args:
        source: a folder (of images, of Parquet or tar files, of an MNIST-like data set, that `save_to_disk` wrote, or
            with a data-set card); a path, pattern or URL of `.parquet` files or of `.tar` shards (webdataset); or the
            id of a Hub data set.
        split: name of the split. Files that are named directly are that split.
        config_name: configuration of a Hub data set with several.
        streaming: read the source as a stream, without a copy in the cache.
        label_column: name of the column of labels; by default it is found by its type. "none" for no labels.

    Raises:
        FileNotFoundError: a path where nothing lies.
        ValueError: no such split, or a source that cannot be made sense of.
        OSError: a folder or file that cannot be read.
    """
    return open_source(source, split, config_name, streaming, label_column).dataset


def silence_loading() -> None:
    """Turns off the progress bars and the log of `datasets`, for a program that has its own."""
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)


def number_in(content: bytes | None) -> int | str | None:
    """The number that a member of a webdataset shard holds, or the text that it holds instead; None for no member."""
    if content is None:
        return None
    try:
        return int(content)
    except ValueError:
        return content.decode("utf-8", errors="replace").strip()


__all__ = ["NO_LABELS", "Source", "number_in", "open_dataset", "silence_loading"]
