"""A folder of images as a data set, without the 2 kB for each file that `datasets` keeps when it lists them itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

_SUFFIXES = frozenset(ImageFolder.EXTENSIONS)
_METADATA = frozenset(("metadata.csv", "metadata.jsonl", "metadata.parquet"))


def load_image_folder(folder: Path) -> Dataset | None:
    """
    All images below a folder, by path in the order of `datasets`, which are read when they are needed.

    As `datasets` decides it, there are labels if all images lie equally deep in folders of several names, which then
    are the classes.

    Returns:
        a data set with `image` and, as the case may be, `label`; None if the folder has metadata files, or no images,
        which are the business of `datasets`.
    """
    paths = []
    for path in _files(folder.absolute()):
        name = os.path.basename(path)
        if name in _METADATA:
            return None
        if os.path.splitext(name)[1].lower() in _SUFFIXES:
            paths.append(path)
    if not paths:
        return None
    paths.sort()
    image = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), pa.array(paths)], ["bytes", "path"])
    columns, features = {"image": image}, Features({"image": Image()})
    classes = sorted({os.path.basename(parent) for parent in {os.path.dirname(path) for path in paths}})
    if len(classes) > 1 and len({path.count(os.sep) for path in paths}) == 1:
        number = {name: index for index, name in enumerate(classes)}
        labels = (number[os.path.basename(os.path.dirname(path))] for path in paths)
        columns["label"], features["label"] = pa.array(labels, pa.int64()), ClassLabel(names=classes)
    return Dataset(pa.table(columns), info=DatasetInfo(features=features))


def _files(folder: Path) -> Iterator[str]:
    """Every file that `datasets` would look at: none that is hidden."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))


__all__ = ["load_image_folder"]
