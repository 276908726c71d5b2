"""The training and the test split of a run: opened, checked against each other, and recorded for a later resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from .fingerprint import fingerprint
from .opening import Opened
from .training_data import check_labels, class_names, classes_of_splits, num_views


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


def open_splits(
    open_train: Callable[[], Opened], open_test: Callable[[], Opened] | None, num_test: int, with_labels: bool
) -> Splits:
    """
    Opens the training and the test examples of a run.

    Args:
        open_train, open_test: `open_image_split` or `open_code_split` with their arguments. Without a test split,
            test examples are held out of the training split.
        num_test: how many examples are held out in that case, the same ones in every run.
        with_labels: whether every example needs a class.

    Raises:
        FileNotFoundError, ValueError: no such data or split, a stream without a test split, fewer examples than are to
            be held out, or, with labels, examples without a class.
    """
    train = open_train()
    test = None if open_test is None else open_test()
    names = _checked_classes(train.dataset, None if test is None else test.dataset) if with_labels else None
    record = {"training data": fingerprint(train.dataset, train.digest)}
    if test is not None:
        record["test data"] = fingerprint(test.dataset, test.digest)
        return Splits(train.dataset, test.dataset, names, record)
    return Splits(*_hold_out(train.dataset, num_test), names, record)


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
            f"The training split has {num_examples} examples, of which intervals.num_test_images={num_test} would "
            "be held out for tests. Lower it, or name a test_split."
        )
    order = np.random.Generator(np.random.Philox(0)).permutation(num_examples)
    return tuple(  # type: ignore[return-value]
        train.select((np.sort(examples)[:, None] * rows_per_example + np.arange(rows_per_example)).ravel())
        for examples in (order[num_test:], order[:num_test])
    )


__all__ = ["Splits", "open_splits"]
