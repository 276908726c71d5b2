"""Batches for training: images, codes, or images with their codes. The order of examples is that of `resumable`."""

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset

from ..image_transforms import ResizeMode
from .augmentation import Augmentation, Batch, ViewBatch, ViewTask, described
from .crops import ViewCutter
from .records import SOURCE_INDEX, Record, checked_label
from .resumable import ResumableLoader
from .shards import Part
from .sources import Source
from .training_data import num_views as views_of_each_image

Item = TypeVar("Item")


class ImageLoader(ResumableLoader):
    """
    Batches `{"pixels": uint8 (batch, 3, image_size, image_size), "label": int64 (batch,)}` from images; without
    `label` if the data set has no labels.

    The augmentation is the paper's: shorter edge to `image_size`, a random crop, mirrored with probability 1/2.

    Args:
        dataset: with a column of images, map-style or streaming, such as `prepare` makes with `crop="none"`.
        image_size: height and width of the crops, in pixels.
        random_crop, flip: whether crops are at a random position, else at the centre; whether half are mirrored.
        resize_mode: "resize", or "pad" for images that are smaller than `image_size`: they keep their pixels and get
            black margins, and nothing is cropped.
        skip_broken: whether an image that cannot be used is replaced by another one of its batch, with a warning.
        batch_size, part, seed, shuffle, workers: see [`ResumableLoader`].

    Raises:
        ValueError: no column of images; while iterating, an image that cannot be decoded, that is too large to be
            padded, or whose label is missing or outside of the classes.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        image_size: int,
        batch_size: int,
        random_crop: bool = True,
        flip: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 0,
        part: Part | None = None,
        resize_mode: ResizeMode = "resize",
        skip_broken: bool = False,
    ) -> None:
        super().__init__(batch_size, part, seed, shuffle, workers, isinstance(dataset, IterableDataset))
        self.dataset = dataset
        self.source = Source(dataset)
        self.augment = Augmentation(image_size, random_crop, flip, seed, resize_mode, skip_broken)
        self.skips_broken = skip_broken

    @property
    def num_examples(self) -> int | None:
        return len(self.dataset) if isinstance(self.dataset, Dataset) else None

    def _work(self) -> Augmentation:
        return self.augment

    def _tasks(self, epoch: int, start: int) -> Iterator[tuple[int, list[Record]]]:
        if isinstance(self.dataset, Dataset):
            batches: Iterator[list[Record]] = map(self.source.take, self._order(len(self.dataset), epoch, start))
        else:
            source = Source(self._share_of_stream(self.dataset, epoch))
            batches = _batched(source.read(start * self.batch_size, sys.maxsize), self.batch_size)
        for records in batches:
            yield epoch, [with_checked_label(record, self.source) for record in records]


class CodeLoader(ResumableLoader):
    """
    Batches `{"codes": int64 (batch, num_latent_tokens), "label": int64 (batch,)}` from what `pretokenize` makes; for a
    KL model `{"latents": float32 (batch, num_latent_tokens, codebook_dim), ...}`.

    An epoch has one view of each image, chosen at random.

    Args:
        dataset: map-style or streaming; the views of an image are neighbouring rows, as `pretokenize` writes them.
            Without a column `view`, each row is an image.
        num_views: views of each image; by default from the column `view`.
        batch_size, part, seed, shuffle: see [`ResumableLoader`].

    Raises:
        ValueError: rows that are not in groups of `num_views`; while iterating, a label that is missing or no class.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        batch_size: int,
        num_views: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        part: Part | None = None,
    ) -> None:
        super().__init__(batch_size, part, seed, shuffle, 0, isinstance(dataset, IterableDataset))
        self.num_views = views_of_each_image(dataset) if num_views is None else num_views
        self.column = "latents" if "latents" in dataset.features else "codes"
        columns = [name for name in (self.column, "label", "view", SOURCE_INDEX) if name in dataset.features]
        self.dataset = dataset.select_columns(columns)
        label = dataset.features.get("label")
        self.label_names = label.names if isinstance(label, ClassLabel) else None
        if isinstance(dataset, Dataset):
            _check_views(dataset, self.num_views)

    @property
    def num_examples(self) -> int | None:
        return len(self.dataset) // self.num_views if isinstance(self.dataset, Dataset) else None

    def _work(self) -> Callable[[dict[str, Any]], Batch]:
        return self._batch

    def _tasks(self, epoch: int, start: int) -> Iterator[dict[str, Any]]:
        if isinstance(self.dataset, Dataset):
            rows = self.dataset.with_format("numpy")
            for images in self._order(len(rows) // self.num_views, epoch, start):
                views = [self._chosen_view(image, epoch, self.num_views) for image in images]
                yield rows[_rows_of_views(images, views, self.num_views)]
            return
        for batch in itertools.islice(_batched(self._chosen_rows(epoch), self.batch_size), start, None):
            yield {name: [row[name] for row in batch] for name in batch[0]}

    def _chosen_rows(self, epoch: int) -> Iterator[dict[str, Any]]:
        """The row with the chosen view of each image of a stream, which shuffles single rows."""
        for row in self._share_of_stream(self.dataset, epoch):
            if self.num_views == 1 or row["view"] == self._chosen_view(row[SOURCE_INDEX], epoch, self.num_views):
                yield row

    def _batch(self, columns: dict[str, Any]) -> Batch:
        dtype = np.float32 if self.column == "latents" else np.int64
        batch = {self.column: np.asarray(columns[self.column]).astype(dtype)}
        if "label" in columns:
            rows = columns.get(SOURCE_INDEX, range(self.batch_size))
            named = zip(rows, columns["label"], strict=True)
            batch["label"] = np.array([_class_number(f"Row {row}", label, self.label_names) for row, label in named])
        return batch, []


class ImageCodeLoader(ResumableLoader):
    """
    Batches of images with their codes from a frozen tokenizer, the targets of stage 1: `{"pixels": uint8 (batch, 3,
    image_size, image_size), "codes": int64 (batch, num_tokens), "label": int64 (batch,)}`, without `label` if there
    are no labels.

    An epoch has one view of each image, chosen at random. The image is cropped and mirrored as `pretokenize` did
    before encoding it, and not beyond that, so that pixels and codes belong together.

    Args:
        images: map-style, with a column of images; the data set that `pretokenize` read.
        codes: map-style, the data set that it made. None: `images` has a column `codes` itself, and `views` cuts one
            view, as `center_view` does.
        views: how the encoded images were cropped; see `recorded_views` and `center_view`.
        skip_broken: see [`ImageLoader`].
        batch_size, part, seed, shuffle, workers: see [`ResumableLoader`].

    Raises:
        ValueError: a stream, no column of codes, codes of other views than those of `views`, or of images that are not
            in `images`; while iterating, what [`ImageLoader`] raises.
    """

    def __init__(
        self,
        images: Dataset,
        codes: Dataset | None,
        views: ViewCutter,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 0,
        part: Part | None = None,
        skip_broken: bool = False,
    ) -> None:
        super().__init__(batch_size, part, seed, shuffle, workers, is_stream=False)
        self.skips_broken = skip_broken
        if not (isinstance(images, Dataset) and isinstance(codes, Dataset | None)):
            raise ValueError(
                "Images and codes are found by number, which a stream does not allow. Load both as a whole."
            )
        self.views, self.num_views = views, views.settings.num_views
        self.source = Source(images)
        own_codes = images if codes is None else codes
        if "codes" not in own_codes.features:
            raise ValueError(f"There is no column 'codes'; the columns are {', '.join(own_codes.features)}.")
        _check_views(own_codes, self.num_views)
        columns = ["codes"] + ["label"] * (codes is not None and "label" in codes.features)
        self.codes = own_codes.select_columns(columns).with_format("numpy")
        self.image_rows = np.arange(len(images)) if codes is None else _image_rows(images, codes, self.num_views)

    @property
    def num_examples(self) -> int | None:
        return len(self.image_rows)

    def _work(self) -> ViewBatch:
        return ViewBatch(self.views, self.skips_broken)

    def _tasks(self, epoch: int, start: int) -> Iterator[ViewTask]:
        for numbers in self._order(len(self.image_rows), epoch, start):
            views = [self._chosen_view(number, epoch, self.num_views) for number in numbers]
            rows = self.codes[_rows_of_views(numbers, views, self.num_views)]
            records = self.source.take(self.image_rows[numbers].tolist())
            labels = rows.get("label")
            if labels is None and self.source.has_labels:
                labels = np.array([with_checked_label(record, self.source).label for record in records])
            yield records, views, np.asarray(rows["codes"]), labels


def with_checked_label(record: Record, source: Source) -> Record:
    """The record with its label as a class number, if the source has labels; ValueError for an invalid label."""
    if not source.has_labels:
        return record
    return replace(record, label=_class_number(f"Image {described(record)}", record.label, source.label_names))


def _class_number(row: str, label: Any, names: list[str] | None) -> int:
    """A label as a class number. It is checked here, as a GPU would train on an invalid one without an error."""
    try:
        number = checked_label(label.item() if isinstance(label, np.generic) else label, names)
        if number < 0:
            raise ValueError(f"the label is {number}, which is no class")
    except ValueError as error:
        raise ValueError(f"{row} cannot be used: {error}. `titok-hf prepare` leaves such images out.") from error
    return number


def _rows_of_views(images: list[int], views: list[int], num_views: int) -> list[int]:
    return [image * num_views + view for image, view in zip(images, views, strict=True)]


def _check_views(dataset: Dataset, num_views: int) -> None:
    """Raises ValueError unless the rows are all views of each image, in order."""
    if "view" not in dataset.features:
        views = np.zeros(len(dataset), dtype=np.int64)
    else:
        views = np.asarray(dataset.with_format("numpy")["view"][:])
    expected = np.tile(np.arange(num_views), len(views) // num_views)
    if len(views) != len(expected) or (views != expected).any():
        raise ValueError(
            f"The rows are not {num_views} views of each image in order; the column `view` goes up to "
            f"{views.max(initial=0)}. The rows have to be all that `pretokenize` wrote, in its order."
        )


def _image_rows(images: Dataset, codes: Dataset, num_views: int) -> np.ndarray:
    """The row of each encoded image in `images`."""
    if SOURCE_INDEX not in codes.features:
        raise ValueError(
            f"The codes have no column {SOURCE_INDEX!r}, which tells their images. Run `pretokenize` again."
        )
    wanted = np.asarray(codes.with_format("numpy")[SOURCE_INDEX][:], dtype=np.int64)[::num_views]
    if SOURCE_INDEX in images.features:
        numbers = np.asarray(images.with_format("numpy")[SOURCE_INDEX][:], dtype=np.int64)
    else:
        numbers = np.arange(len(images))
    order = np.argsort(numbers, kind="stable")
    rows = order[np.searchsorted(numbers[order], wanted).clip(max=len(numbers) - 1)]
    missing = wanted[numbers[rows] != wanted]
    if len(missing):
        raise ValueError(
            f"There are codes of {len(missing):,} images that are not among the {len(images):,} images, the first one "
            f"being number {missing[0]}. Pass the data set and the split that `pretokenize` encoded."
        )
    return rows


def _batched(items: Iterator[Item], batch_size: int) -> Iterator[list[Item]]:
    """Whole batches only."""
    while len(batch := list(itertools.islice(items, batch_size))) == batch_size:
        yield batch
