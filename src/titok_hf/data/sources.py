"""Where images come from: any data set that `datasets` reads, as numbered image files that are not decoded yet."""

import itertools
from collections.abc import Iterator
from typing import Any

from datasets import ClassLabel, Dataset, Image, IterableDataset, Value, disable_progress_bars
from datasets.utils import logging

from . import columns
from .opening import open_source
from .records import ERROR, SOURCE_INDEX, Record


class Source:
    """
    The images of a data set in a fixed order.

    Args:
        dataset: map-style or streaming.
        image_column, label_column: names; by default the only column of that type. "none" for no labels.
        limit: use only the first `limit` images.
        single_class: for a source without labels, the name of the one class that all its images get.

    Attributes:
        label_names: names of the classes, None for labels without names or no labels.
        has_labels: whether there is a label column.
        num_images: None for a stream, whose length is not known in advance.

    Raises:
        ValueError: no such column, or several candidates.
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
            dataset = dataset._resolve_features()  # reads the first examples of a stream
        if isinstance(dataset, IterableDataset):
            # `datasets` decodes a stream from the Hub in its own threads, which a later cast does not reach.
            dataset = dataset.decode(False)
        self.image_column = columns.image_column(dataset, image_column)
        self.label_column = columns.label_column(dataset, label_column)
        self._is_single_class = self.label_column is None and label_column is None and single_class is not None
        self.has_labels = self.label_column is not None or self._is_single_class
        self.label_names: list[str] | None = [str(single_class)] if self._is_single_class else None
        self._limit = limit
        self.num_images: int | None = None
        if isinstance(dataset, Dataset):
            self.num_images = len(dataset) if limit is None else min(limit, len(dataset))
        if self.label_column is not None:
            dataset = self._with_numbered_texts(dataset, self.label_column)
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
        The images from number `start` up to `stop`, or up to the end of the source. A stream is read forward only, so
        `start` must not be below an earlier `stop`.
        """
        if isinstance(self._dataset, Dataset):
            rows = self._dataset.select(range(start, max(start, min(stop, self.num_images or 0))))
            yield from map(self._record, itertools.count(start), rows)
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
        """The images with these numbers, in this order; not for a stream."""
        rows = self._dataset[numbers]
        return [
            self._record(number, {column: values[position] for column, values in rows.items()})
            for position, number in enumerate(numbers)
        ]

    def reaches(self, index: int) -> bool:
        """Whether there is an image with this number. For a stream, it must be the number of the next one."""
        if self.num_images is not None:
            return index < self.num_images
        if self._limit is not None and index >= self._limit:
            return False
        self._skip_to(index)
        self._peeked = self._next()
        return self._peeked is not None

    def _skip_to(self, index: int) -> None:
        if self._stream_position is None:
            rows = self._dataset.skip(index) if index else self._dataset
            self._stream = (self._record(number, row) for number, row in zip(itertools.count(index), rows))
            self._stream_position = index
        for _ in range(index - self._stream_position):
            self._next()
        self._stream_position = index

    def _next(self) -> Record | None:
        """The next image of a stream, also if `reaches` has read it already; None at the end."""
        record, self._peeked = self._peeked or next(self._stream, None), None
        return record

    def _record(self, index: int, row: dict[str, Any]) -> Record:
        image = row[self.image_column] or {"bytes": None, "path": None}
        label = row[self.label_column] if self.label_column is not None else 0 if self._is_single_class else None
        if isinstance(label, bytes):
            label = number_in(label)
        source_index = row[SOURCE_INDEX] if self._has_index else index
        return Record(source_index, image["bytes"], image["path"], label, row.get(ERROR))

    def _with_numbered_texts(self, dataset: Dataset | IterableDataset, column: str) -> Dataset | IterableDataset:
        """The same with labels that are texts as classes; keeps the names of the classes."""
        feature = dataset.features[column]
        if isinstance(feature, Value) and "string" in feature.dtype:
            if not isinstance(dataset, Dataset):
                raise ValueError(
                    f"The labels in {column!r} are texts, and a stream does not tell all of them in advance. Prepare "
                    "without streaming, or cast the column to ClassLabel."
                )
            dataset = columns.with_numbered_labels(dataset, column, ())
        if isinstance(dataset.features[column], ClassLabel):
            self.label_names = list(dataset.features[column].names)
        return dataset


def open_dataset(
    source: str,
    split: str,
    config_name: str | None = None,
    streaming: bool = False,
    label_column: str | None = None,
) -> Dataset | IterableDataset:
    """
    Opens a source, whose kind is recognised by its name and its files.

    Labels have the same numbers in all splits of the source: the classes of all splits are numbered together, and
    labels that are texts become classes.

    Args:
        source: a folder (of images, of Parquet or tar files, of an MNIST-like data set, that `save_to_disk` wrote, or
            with a data-set card); a path, pattern or URL of `.parquet` files or of `.tar` shards (webdataset); or the
            id of a Hub data set.
        split: name of the split. Files that are named directly belong to this split.
        config_name: configuration of a Hub data set that has several.
        streaming: read the source as a stream, without a copy in the cache.
        label_column: name of the column of labels; by default it is found by its type. "none" for no labels.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: no such split, or a source of no known kind.
        OSError: a folder or file that cannot be read.
    """
    return open_source(source, split, config_name, streaming, label_column).dataset


def silence_loading() -> None:
    """Turns off the progress bars and the log of `datasets`, for programs that show their own."""
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)


def number_in(content: bytes | None) -> int | str | None:
    """The content of a member of a webdataset shard as a number, or as text if it is none; None for no member."""
    if content is None:
        return None
    try:
        return int(content)
    except ValueError:
        return content.decode("utf-8", errors="replace").strip()
