"""The data of a run: one function turns a data config into training batches, test examples and class names."""

import itertools
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset

from .augmentation import Augmentation
from .columns import NO_LABELS
from .configs import HELD_OUT, CodeDataConfig, ImageDataConfig
from .fingerprint import fingerprint
from .loaders import CodeLoader, ImageLoader, ResumableLoader
from .opening import Opened
from .shards import Part
from .sources import Source
from .training_data import (
    check_codes,
    check_labels,
    class_names,
    classes_of_splits,
    num_views,
    open_code_split,
    open_image_split,
)

logger = logging.getLogger(__name__)


@dataclass
class Splits:
    """
    The two splits of a run.

    Args:
        train: what is learnt, map-style or streaming.
        test: what is measured, map-style.
        class_names: the classes of both, in the order of the labels; None without labels.
        record: what decides which examples are learnt, in which order, and which are measured; a resumed run has to
            find the same. Plain values.
    """

    train: Dataset | IterableDataset
    test: Dataset
    class_names: list[str] | None = None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunData:
    """
    What a run reads.

    Args:
        splits: the data sets, their class names and their record.
        loader: batches to train on, without end.
        test: the test examples: images, uint8, shape (images, 3, image_size, image_size), or codes, int64, shape
            (images, num_latent_tokens).
        test_labels: their classes, int64, shape (images,); None without labels.
    """

    splits: Splits
    loader: ResumableLoader
    test: torch.Tensor
    test_labels: torch.Tensor | None = None


def open_image_data(
    config: ImageDataConfig, num_test: int | None, batch_size: int, seed: int = 0, with_labels: bool = False
) -> RunData:
    """
    Opens the images of a run.

    Args:
        num_test, with_labels: see [`image_splits`].
        batch_size, seed: of the training batches of this process.

    Raises:
        FileNotFoundError, ValueError: what [`image_splits`] raises, fewer training images than a batch needs, or a
            test image that cannot be read and is not skipped.
    """
    splits = image_splits(config, num_test, with_labels)
    loader = ImageLoader(
        splits.train,
        config.image_size,
        batch_size,
        config.random_crop,
        config.horizontal_flip,
        seed=seed,
        workers=config.num_workers,
        resize_mode=config.resize_mode,
        skip_broken=config.broken_images == "skip",
    )
    loader.check_global_batch()
    test, labels = _decode(splits.test, config, num_test)
    return RunData(splits, loader, test, torch.tensor(labels) if with_labels else None)


def open_code_data(
    config: CodeDataConfig, num_test: int, batch_size: int, codebook_size: int, num_latent_tokens: int, seed: int = 0
) -> RunData:
    """
    Opens the codes of a run, which have labels.

    Args:
        num_test: how many test examples are read, of one view each.
        batch_size, seed: of the training batches of this process.
        codebook_size, num_latent_tokens: of the model that trains on the codes.

    Raises:
        FileNotFoundError, ValueError: what [`code_splits`] and `check_codes` raise, or fewer training examples than a
            batch needs.
    """
    splits = code_splits(config, num_test)
    for dataset in (splits.train, splits.test):
        check_codes(dataset, codebook_size, num_latent_tokens)
    loader = CodeLoader(splits.train, batch_size, seed=seed)
    loader.check_global_batch()
    batches = CodeLoader(splits.test, batch_size=1, shuffle=False, part=Part(0, 1))
    test = list(itertools.islice(batches, min(num_test, batches.num_examples or 0)))
    codes, labels = (torch.cat([batch[name] for batch in test]) for name in ("codes", "label"))
    return RunData(splits, loader, codes, labels)


def image_splits(config: ImageDataConfig, num_test: int | None = None, with_labels: bool = False) -> Splits:
    """
    Opens the training and the test images of a run.

    Args:
        num_test: images that are held out of the training split, the same ones in every run, if the config names no
            test split. None: the config has to name one.
        with_labels: whether every image needs a class; without, labels are left out, whatever they are.

    Raises:
        FileNotFoundError, ValueError: no such data or split, a stream without a test split, fewer images than are to
            be held out, or, with labels, images without a class.
    """
    labels = None if with_labels else NO_LABELS
    train = open_image_split(config.source, config.train_split, config.streaming, labels)
    test = None if config.test_split is None else open_image_split(config.source, config.test_split, False, labels)
    return _splits(train, test, num_test, with_labels)


def code_splits(config: CodeDataConfig, num_test: int) -> Splits:
    """Opens the training and the test codes of a run, with labels; arguments and errors as for [`image_splits`]."""
    train, test = open_code_split(config.source, config.train_split, config.streaming), None
    if config.test_split is not None or config.test_source is not None:
        test = open_code_split(config.test_source or config.source, config.test_split or config.train_split)
    return _splits(train, test, num_test, with_labels=True)


def _splits(train: Opened, test: Opened | None, num_test: int | None, with_labels: bool) -> Splits:
    names = _checked_classes(train.dataset, None if test is None else test.dataset) if with_labels else None
    record: dict[str, Any] = {"training data": fingerprint(train.dataset, train.digest)}
    if test is None:
        if num_test is None:
            raise ValueError("no test_split is named, which this kind of run needs.")
        return Splits(*_hold_out(train.dataset, num_test), names, record | {HELD_OUT: num_test})
    return Splits(train.dataset, test.dataset, names, record | {"test data": fingerprint(test.dataset, test.digest)})


def _checked_classes(train: Dataset | IterableDataset, test: Dataset | None) -> list[str]:
    """The names of the classes of two splits, or of one; ValueError if a label is none of them."""
    names = class_names(train) if test is None else classes_of_splits(train, test)
    for name, dataset in (("training", train), ("test", test)):
        try:
            if dataset is not None:
                check_labels(dataset, len(names))
        except ValueError as error:
            raise ValueError(f"In the {name} split, {error}") from error
    return names


def _hold_out(train: Dataset | IterableDataset, num_test: int) -> tuple[Dataset, Dataset]:
    """Splits `num_test` examples off, the same ones in every run; the views of an image stay together."""
    if not isinstance(train, Dataset):
        raise ValueError("No test examples can be held out of a stream. Name a test_split.")
    rows_per_example = num_views(train)
    num_examples = len(train) // rows_per_example
    if num_test >= num_examples:
        raise ValueError(
            f"The training split has {num_examples} examples, of which {HELD_OUT}={num_test} would be held out for "
            "tests. Lower it, or name a test_split."
        )
    order = np.random.Generator(np.random.Philox(0)).permutation(num_examples)
    return tuple(  # type: ignore[return-value]
        train.select((np.sort(examples)[:, None] * rows_per_example + np.arange(rows_per_example)).ravel())
        for examples in (order[num_test:], order[:num_test])
    )


def _decode(dataset: Dataset, config: ImageDataConfig, limit: int | None) -> tuple[torch.Tensor, list[int | None]]:
    """The first `limit` images, uncropped and unmirrored, and their labels; broken ones as the config says."""
    source = Source(dataset, limit=limit)
    decode = Augmentation(config.image_size, random_crop=False, flip=False, seed=0, resize_mode=config.resize_mode)
    images, labels = [], []
    for record in source.read(0, source.num_images or 0):
        try:
            images.append(decode((0, [record]))[0]["pixels"])
        except ValueError as error:
            if config.broken_images == "stop":
                raise
            logger.warning(f"skipped in tests: {error}")
            continue
        labels.append(record.label)
    if not images:
        raise ValueError(f"no test image of {config.source} can be read.")
    return torch.from_numpy(np.concatenate(images)), labels
