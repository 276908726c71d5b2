"""Opens data sets of images or codes for training, and checks them before the first step."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, IterableDataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from ..image_transforms import NO_BACKGROUND
from .crops import PretokenizeSettings, ViewCutter
from .opening import Opened, open_source
from .records import SOURCE_INDEX, checked_label
from .sources import Source, number_in

_ROWS_AT_ONCE = 100_000

# Rows of a stream that are checked before training starts.
_ROWS_OF_STREAM = 1_000

# Wrong labels that an error names.
_ROWS_SHOWN = 5


def open_images(
    source: str,
    split: str = "train",
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    config_name: str | None = None,
) -> Dataset | IterableDataset:
    """
    A split of a data set of images, with or without labels.

    Args:
        source, split, streaming, config_name: see `open_dataset`.
        image_column, label_column: names; by default the only column of that type. "none" for no labels.

    Returns:
        a data set with the column `image`, and with `label`, `source_index` and `codes` if the source has them.
    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: no such split or column, or several candidate columns.
    """
    opened = open_source(source, split, config_name, streaming, label_column)
    return _only_images(opened, image_column, label_column).dataset


def open_image_split(
    source: str, split: str = "train", streaming: bool = False, label_column: str | None = None
) -> Opened:
    """As `open_images`, with the digest of the source's files, which shows whether the source has changed."""
    return _only_images(open_source(source, split, None, streaming, label_column), None, label_column)


def _only_images(opened: Opened, image_column: str | None, label_column: str | None) -> Opened:
    dataset = opened.dataset
    found = Source(dataset, image_column, label_column)
    names = {found.image_column: "image"}
    if found.label_column is not None:
        names[found.label_column] = "label"
    kept = {name: name for name in (SOURCE_INDEX, "codes") if name in dataset.features and name not in names}
    dataset = dataset.select_columns([*names, *kept])
    opened.dataset = dataset.rename_columns({old: new for old, new in names.items() if old != new})
    return opened


def open_codes(
    source: str, split: str = "train", streaming: bool = False, config_name: str | None = None
) -> Dataset | IterableDataset:
    """
    A split of a data set of codes or latents, such as `pretokenize` makes. Labels that are texts become numbers.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: no such split, or neither a column `codes` nor one `latents`.
    """
    return open_code_split(source, split, streaming, config_name).dataset


def open_code_split(
    source: str, split: str = "train", streaming: bool = False, config_name: str | None = None
) -> Opened:
    """As `open_codes`, with the digest of the source's files."""
    opened = open_source(source, split, config_name, streaming)
    dataset = opened.dataset
    if not {"codes", "latents"} & set(dataset.features):
        raise ValueError(
            f"{source} has neither a column 'codes' nor one 'latents'; its columns are {', '.join(dataset.features)}. "
            "`titok-hf pretokenize` makes codes from images."
        )
    columns = [name for name in ("codes", "latents", "label", "view", SOURCE_INDEX) if name in dataset.features]
    opened.dataset = dataset.select_columns(columns)
    return opened


def class_names(dataset: Dataset | IterableDataset) -> list[str]:
    """
    The names of the classes, in the order of the labels; numbers if the labels have no names.

    Raises:
        ValueError: no column `label`, or a stream whose labels have no names.
    """
    feature = dataset.features.get("label")
    if feature is None:
        raise ValueError(
            f"The data set has no column 'label'; its columns are {', '.join(dataset.features)}. A generator learns "
            "from labelled images: name the column of classes, put the images into one folder a class, or give all of "
            "them the label 0. `titok-hf prepare` makes a folder without classes a single class of its name."
        )
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "The labels of this stream have no names, so their number is not known. Load it without streaming, or "
            "cast the column 'label' to ClassLabel."
        )
    if "string" in feature.dtype:
        return sorted(name for name in dataset.unique("label") if name is not None)
    if "binary" in feature.dtype:  # of webdataset shards
        largest = max((n for n in map(number_in, dataset.unique("label")) if isinstance(n, int)), default=-1)
    else:
        largest = max((_largest(table["label"]) for table in _tables(dataset, "label")), default=-1)
    return [str(number) for number in range(largest + 1)]


def classes_of_splits(train: Dataset | IterableDataset, test: Dataset) -> list[str]:
    """
    The names of the classes that a training split and its test split share; see `class_names`.

    Raises:
        ValueError: one of the two has no column `label`, or they number their classes differently.
    """
    names, test_names = class_names(train), class_names(test)
    is_named = [isinstance(dataset.features["label"], ClassLabel) for dataset in (train, test)]
    if all(is_named) and names != test_names:
        number, name, test_name = next(
            (number, *pair) for number, pair in enumerate(zip_longest(names, test_names)) if pair[0] != pair[1]
        )
        raise ValueError(
            f"The splits number their classes differently: number {number} is {name!r} in the training split and "
            f"{test_name!r} in the test split. Prepare both from one source, or cast both labels to one ClassLabel."
        )
    return names if is_named[0] or len(names) >= len(test_names) else test_names


def check_labels(dataset: Dataset | IterableDataset, num_classes: int) -> None:
    """
    Checks every label against a number of classes. The loader checks the labels of a stream, batch by batch.

    Raises:
        ValueError: labels that are missing or not in [0, num_classes). The text names the first such rows.
    """
    if not isinstance(dataset, Dataset):
        return
    first, num_wrong = 0, 0
    shown: list[str] = []
    for table in _tables(dataset, "label"):
        labels = table["label"]
        rows = _rows_without_class(labels, num_classes)
        num_wrong += len(rows)
        for row in rows[: _ROWS_SHOWN - len(shown)].tolist():
            value = labels[row].as_py()
            shown.append(
                f"row {first + row} has {value!r}" if value is not None else f"row {first + row} has no label"
            )
        first += len(labels)
    if num_wrong:
        raise ValueError(
            f"{num_wrong:,} of {first:,} labels are no class: {', '.join(shown)}{', ...' * (num_wrong > len(shown))}. "
            f"Labels are whole numbers in [0, {num_classes}). Correct these rows or remove them; `titok-hf prepare` "
            "and `pretokenize` leave out images without a valid label."
        )


def num_views(dataset: Dataset | IterableDataset) -> int:
    """The number of views of each image in a data set of codes, from its column `view`; 1 without that column."""
    if "view" not in dataset.features:
        return 1
    if isinstance(dataset, Dataset):
        return 1 + max((_largest(table["view"]) for table in _tables(dataset, "view")), default=0)
    largest = 0
    for number, row in enumerate(dataset.select_columns("view")):
        if number > 0 and row["view"] == 0:  # the second image begins
            break
        largest = row["view"]
    return largest + 1


def check_codes(dataset: Dataset | IterableDataset, codebook_size: int, num_latent_tokens: int) -> None:
    """
    Checks every code against a model; for a stream, the codes of its first 1,000 rows.

    Args:
        codebook_size: codes have to lie in [0, codebook_size).
        num_latent_tokens: codes of one row.
    Raises:
        ValueError: no column `codes`, a row of another length, or a code outside of the codebook. The text names the
            first such row.
    """
    if "codes" not in dataset.features:
        raise ValueError(f"The data set has no column 'codes'; its columns are {', '.join(dataset.features)}.")
    advice = "Train on codes of the tokenizer that the recipe names."
    first = 0
    for codes in _columns_of_codes(dataset):
        lengths = pc.list_value_length(codes).fill_null(0).to_numpy(zero_copy_only=False)
        if (lengths != num_latent_tokens).any():
            row = int(np.argmax(lengths != num_latent_tokens))
            raise ValueError(
                f"Row {first + row} has {lengths[row]} codes; this model has {num_latent_tokens} latent tokens. "
                f"{advice}"
            )
        flat = pc.list_flatten(codes)
        values = flat.to_numpy(zero_copy_only=False)
        wrong = ~((values >= 0) & (values < codebook_size))  # also true for missing values, which are NaN
        if wrong.any():
            position = int(np.argmax(wrong))
            raise ValueError(
                f"Row {first + position // num_latent_tokens} holds the code {flat[position].as_py()}; this model's "
                f"codes lie in [0, {codebook_size}). {advice}"
            )
        first += len(codes)


def recorded_views(source: str, split: str = "train", revision: str | None = None) -> ViewCutter:
    """
    How `pretokenize` cropped the images of a data set of codes, as recorded in its `report-<split>.json`.

    Args:
        source: the folder or the Hub id of the data set of codes.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file does not have these settings.
    """
    name = f"report-{split}.json"
    path = Path(source).expanduser() / name
    if not path.parent.exists():
        with suppress(EntryNotFoundError, HFValidationError, RepositoryNotFoundError):
            path = Path(hf_hub_download(source, name, repo_type="dataset", revision=revision))
    if not path.is_file():
        raise FileNotFoundError(
            f"{source} has no {name}, in which `titok-hf pretokenize` records how it cut the images. Name the folder "
            "or Hub id of a complete data set that it made, or let the run compute the codes."
        )
    settings = json.loads(path.read_bytes()).get("settings", {})
    settings.setdefault("background", NO_BACKGROUND)  # earlier versions dropped alpha
    missing = [field.name for field in fields(PretokenizeSettings) if field.name not in settings]
    if missing or "image_size" not in settings:
        raise ValueError(
            f"{path} does not say how the images were cut: {', '.join(missing) or 'image_size'} is missing. It was "
            "made by another version, or by `prepare`; run `titok-hf pretokenize` again."
        )
    views = PretokenizeSettings(**{field.name: settings[field.name] for field in fields(PretokenizeSettings)})
    return ViewCutter(views, settings["image_size"])


def center_view(image_size: int) -> ViewCutter:
    """The one view of codes without a record: the centre of the image, never mirrored."""
    return ViewCutter(PretokenizeSettings(views="center", enlarge=True), image_size)


def _tables(dataset: Dataset, column: str) -> Iterator[pa.Table]:
    yield from dataset.select_columns(column).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)


def _largest(column: pa.ChunkedArray) -> int:
    largest = pc.max(column).as_py()
    return -1 if largest is None else largest


def _rows_without_class(labels: pa.ChunkedArray, num_classes: int) -> np.ndarray:
    if pa.types.is_integer(labels.type):
        inside = pc.and_(pc.greater_equal(labels, 0), pc.less(labels, num_classes))
        return np.flatnonzero(~pc.fill_null(inside, False).to_numpy())
    names = [str(number) for number in range(num_classes)]
    return np.array([row for row, value in enumerate(labels.to_pylist()) if not _is_class(value, names)], dtype=int)


def _is_class(value: Any, names: list[str]) -> bool:
    try:
        checked_label(number_in(value) if isinstance(value, bytes) else value, names)
    except ValueError:
        return False
    return True


def _columns_of_codes(dataset: Dataset | IterableDataset) -> Iterable[pa.Array]:
    if isinstance(dataset, Dataset):
        return (table["codes"].combine_chunks() for table in _tables(dataset, "codes"))
    rows: list[Any] = [row["codes"] for row in dataset.select_columns("codes").take(_ROWS_OF_STREAM)]
    return [pa.array(rows, type=pa.list_(pa.int64()))]
