"""A few facts about a data set, kept with a run, that show whether the data set has changed since."""

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Image, IterableDataset

# Rows whose content is compared, evenly spaced; the first rows of a stream.
_ROWS_READ = 64
_ROWS_OF_STREAM = 16


def fingerprint(dataset: Dataset | IterableDataset, files: str | None) -> dict[str, Any]:
    """
    Facts that change with the examples of a data set, their order or their classes, and not with its path. A change of
    single images that keeps the size of every file may be missed.

    Args:
        files: the digest of the source's files, None if it has none.

    Returns:
        plain values: `rows` (None for a stream), `columns`, `classes` (None without names), `files`, and `content`, a
        digest of some of the rows.
    """
    label = dataset.features.get("label")
    return {
        "rows": len(dataset) if isinstance(dataset, Dataset) else None,
        "columns": sorted(dataset.features),
        "classes": list(label.names) if isinstance(label, ClassLabel) else None,
        "files": files,
        "content": _content_digest(dataset),
    }


def difference(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first difference between two fingerprints of a data set as a sentence; None if they are equal."""
    if then["rows"] != now["rows"]:
        return f"it had {_counted(then['rows'])}, and now it has {_counted(now['rows'])}"
    for name in ("columns", "classes"):
        if then[name] != now[name]:
            return f"its {name} were {_listed(then[name])}, and now they are {_listed(now[name])}"
    if then["content"] != now["content"]:
        return "its rows are others, or in another order"
    return "files of it are others" if then["files"] != now["files"] else None


def _content_digest(dataset: Dataset | IterableDataset) -> str:
    if isinstance(dataset, IterableDataset):
        dataset = dataset.decode(False)  # a cast has no effect on a stream from the Hub
    for column, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
    if isinstance(dataset, Dataset):
        numbers = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _ROWS_READ), dtype=np.int64))
        rows: Iterable[dict[str, Any]] = (dataset[number] for number in numbers.tolist())
    else:
        rows = itertools.islice(dataset, _ROWS_OF_STREAM)
    digest = hashlib.sha256()
    for row in rows:
        for column in sorted(row):
            content = _bytes_of(row[column])
            digest.update(f"{column} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _bytes_of(value: Any) -> bytes:
    if not (isinstance(value, dict) and "bytes" in value):
        return repr(value).encode()
    if value["bytes"] is not None:
        return value["bytes"]
    path = Path(value["path"] or "")
    try:
        return path.read_bytes() if path.is_file() else path.name.encode()
    except OSError:  # training names this image when it reads it
        return path.name.encode()


def _counted(rows: int | None) -> str:
    return "no known number of rows" if rows is None else f"{rows:,} rows"


def _listed(names: list[str] | None) -> str:
    shown = [] if names is None else names[:8]
    return "none" if not shown else ", ".join(shown) + ", ..." * (len(names or []) > len(shown))
