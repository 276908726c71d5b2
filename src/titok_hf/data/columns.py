"""Finds the columns of images and of labels, and gives them the types that the other modules expect."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Image, IterableDataset, Value

# Names of label columns that have no class names: `datasets` names webdataset columns by file suffix.
_USUAL_LABEL_COLUMNS = ("label", "cls")
NO_LABELS = "none"


def image_column(dataset: Dataset | IterableDataset, wanted: str | None) -> str:
    """
    The name of the column of images.

    Raises:
        ValueError: there is no such column, or there are several candidates.
    """
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if wanted is None and len(images) == 1:
        return images[0]
    name = wanted or "image"
    if name not in images:
        way_out = "Name one with --image-column." if images else "Images are files, bytes or {bytes, path}."
        raise ValueError(
            f"The source has no column {name!r} of images. Its columns of images: {', '.join(images) or 'none'}; all "
            f"columns: {', '.join(dataset.features)}. {way_out}"
        )
    return name


def label_column(dataset: Dataset | IterableDataset, wanted: str | None) -> str | None:
    """
    The name of the column of labels; None if there is none, or if none is wanted.

    Raises:
        ValueError: there is no column with the wanted name, or there are several candidates.
    """
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


def with_image_columns(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Gives columns of `{bytes, path}`, as pandas writes images, and a single column of bytes the type of images."""
    features = dataset.features
    names = [name for name, feature in features.items() if _holds_bytes_and_path(feature)]
    if not names and not any(isinstance(feature, Image) for feature in features.values()):
        names = [
            name
            for name, feature in features.items()
            if isinstance(feature, Value) and "binary" in feature.dtype and name not in _USUAL_LABEL_COLUMNS
        ]
        names = names if len(names) == 1 else []
    for name in names:
        dataset = dataset.cast_column(name, Image())
    return dataset


def with_numbered_labels(dataset: Dataset, column: str, others: Iterable[Dataset]) -> Dataset:
    """
    Gives labels the same numbers in all splits of a data set: texts become classes, classes are renumbered if the
    splits have different lists of names, and whole floats (which pandas writes if a label is missing) become integers.

    Args:
        others: the other splits; those without the column are ignored.
    """
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel) or _is_text(feature):
        others = [other for other in others if column in other.features]
        names = class_names_of([dataset, *others], column)
        if names is None or (isinstance(feature, ClassLabel) and feature.names == names):
            return dataset
        number = {name: index for index, name in enumerate(names)}
        old = feature.names if isinstance(feature, ClassLabel) else None
        labels = [_renumbered(value, old, number) for value in _values(dataset, column).to_pylist()]
        return _replaced(dataset, column, labels, ClassLabel(names=names))
    if isinstance(feature, Value) and feature.dtype.startswith("float"):
        values = _values(dataset, column).to_numpy(zero_copy_only=False).astype(np.float64)
        known = values[~np.isnan(values)]
        if (known == np.rint(known)).all() and (np.abs(known) < 2**53).all():
            labels = [None if np.isnan(value) else int(value) for value in values]
            return _replaced(dataset, column, labels, Value("int64"))
    return dataset


def class_names_of(splits: list[Dataset], column: str) -> list[str] | None:
    """The classes of all splits, in the order of the longest list if that is complete; None if they have no names."""
    lists = []
    for split in splits:
        feature = split.features[column]
        if isinstance(feature, ClassLabel):
            lists.append(list(feature.names))
        elif _is_text(feature):
            lists.append(sorted(name for name in split.unique(column) if name is not None))
        else:
            return None
    longest = max(lists, key=len)
    every = {name for names in lists for name in names}
    return longest if every == set(longest) else sorted(every)


def _renumbered(value: int | str | None, old: list[str] | None, number: dict[str, int]) -> int | None:
    if value is None or isinstance(value, str):
        return None if value is None else number[value]
    assert old is not None  # a label that is a number belongs to a ClassLabel
    return number[old[value]] if 0 <= value < len(old) else len(number)  # an invalid label stays invalid


def _replaced(dataset: Dataset, column: str, labels: list[int | None], feature: ClassLabel | Value) -> Dataset:
    """The data set with other values in a column; unlike `cast`, it does not read the images."""
    return dataset.remove_columns(column).add_column(column, pa.array(labels, pa.int64()), feature=feature)


def _values(dataset: Dataset, column: str) -> pa.ChunkedArray:
    return dataset.select_columns(column).with_format("arrow")[:][column]


def _is_text(feature: object) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype


def _holds_bytes_and_path(feature: object) -> bool:
    return (
        isinstance(feature, dict)
        and {"bytes"} <= set(feature) <= {"bytes", "path"}
        and isinstance(feature["bytes"], Value)
        and "binary" in feature["bytes"].dtype
    )
