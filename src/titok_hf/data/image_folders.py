"""A folder of images as a data set, without the 2 kB for each file that `datasets` keeps when it lists them itself."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image

from .folder_listing import FolderListing
from .report import Unused
from .split_names import folder_splits


@dataclass
class ImageFolder:
    """
    The images of one split of a folder, and their classes.

    Args:
        listing: of the whole folder.
        images: paths relative to it, sorted.
        class_names: of all splits; None if this split has no classes.
        no_labels: why there are none.
        unused: images that belong to no split, or to no class where the others do.
    """

    listing: FolderListing
    images: list[str]
    class_names: list[str] | None = None
    no_labels: str | None = None
    unused: list[Unused] = field(default_factory=list)

    @property
    def single_class(self) -> str | None:
        """The name of the folder in which all images lie, if it is one that stands for no class or split yet."""
        is_flat = self.class_names is None and len({os.path.dirname(path) for path in self.images}) == 1
        return os.path.basename(os.path.realpath(self.listing.folder)) or None if is_flat else None

    def dataset(self) -> Dataset:
        """The columns `image` and, if there are classes, `label`. Files are read when they are needed."""
        paths = [_utf8(self.listing.path(path)) for path in self.images]
        image = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), pa.array(paths)], ["bytes", "path"])
        columns, features = {"image": image}, Features({"image": Image()})
        if self.class_names is not None:
            number = {name: index for index, name in enumerate(self.class_names)}
            labels = pa.array((number[_class_of(path)] for path in self.images), pa.int64())
            columns["label"], features["label"] = labels, ClassLabel(names=self.class_names)
        return Dataset(pa.table(columns), info=DatasetInfo(features=features))


def read_image_folder(listing: FolderListing, split: str, labelled: bool = True) -> ImageFolder:
    """
    A split of a folder of images. The classes have the same numbers in all splits.

    As `datasets` decides it, there are classes if all images lie equally deep, and they are named by their folders. A
    few images above these folders belong to no class and are not used; one folder alone is a class, too.

    Args:
        labelled: whether classes are wanted; without them every image is used.

    Raises:
        ValueError: no such split, or folders that could be splits or classes.
    """
    splits = folder_splits({os.path.dirname(path) for path in listing.images}, split) or {"train": [""]}
    if split not in splits:
        raise ValueError(f"it has no split {split!r}; its splits are: {', '.join(splits)}.")
    found = {}
    for name, folders in splits.items():
        images = [path for path in listing.images if _lies_in(path, folders)]
        found[name] = _classes(images, folders[0].count("/") + 1 if folders[0] else 0)
    images, above, reason = found[split]
    unused = [Unused(folder, f"the split {name!r}") for name in splits if name != split for folder in splits[name]]
    every_folder = [folder for folders in splits.values() for folder in folders]
    unused += [
        Unused(path, "an image beside the folders of splits")
        for path in listing.images
        if not _lies_in(path, every_folder)
    ]
    if not labelled:
        return ImageFolder(listing, sorted([*images, *above]), None, None, unused)
    unused += [Unused(path, "an image above the folders of classes, so it has no class") for path in above]
    names = {_class_of(path) for paths, _, why in found.values() if why is None for path in paths}
    return ImageFolder(listing, images, sorted(names) if reason is None else None, reason, unused)


def _classes(images: list[str], depth: int) -> tuple[list[str], list[str], str | None]:
    """
    Images that are used, those above the folders of classes, and the reason why there are no classes, or None.

    Args:
        depth: number of folders above an image that lies directly in the split.
    """
    depths = Counter(path.count("/") for path in images)
    deepest = max(depths)
    if deepest == depth:
        return images, [], "all images lie in one folder, without folders of classes"
    if len(depths) == 1:
        return images, [], None
    below = [path for path in images if path.count("/") == deepest]
    above = [path for path in images if path.count("/") < deepest]
    parents: set[str] = set()
    for folder in {os.path.dirname(path) for path in below}:
        while folder:
            folder = os.path.dirname(folder)
            parents.add(folder)
    if len(above) < len(below) and all(os.path.dirname(path) in parents for path in above):
        return below, above, None
    return images, [], f"the images do not lie equally deep in folders of classes ({above[0]}, but {below[0]})"


def _class_of(path: str) -> str:
    return _utf8(os.path.basename(os.path.dirname(path)))


def _lies_in(path: str, folders: Iterable[str]) -> bool:
    return any(not folder or path.startswith(f"{folder}/") for folder in folders)


def _utf8(path: str) -> str:
    """The name in UTF-8, with replacement characters where it is not: Arrow holds only UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


__all__ = ["ImageFolder", "read_image_folder"]
