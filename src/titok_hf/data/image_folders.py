"""A folder of images as a data set: its splits and classes. `datasets` would keep 2 kB of memory for each file."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image

from .folder_listing import FolderListing
from .report import Unused

# The words for splits that `datasets` knows.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_ANY_WORD = "|".join(sorted(_SPLIT_OF_WORD, key=len, reverse=True))
_AMONG_OTHERS = re.compile(rf"(?:^|[-._ 0-9])({_ANY_WORD})(?:[-._ 0-9]|$)")
_NUMBERED = re.compile(r"(.+)-\d{5}-of-\d{5}")


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
        """The name of the folder that holds all images, if it is neither a class nor a split."""
        is_flat = self.class_names is None and len({os.path.dirname(path) for path in self.images}) == 1
        return os.path.basename(os.path.realpath(self.listing.folder)) or None if is_flat else None

    def dataset(self) -> Dataset:
        """The columns `image` and, if there are classes, `label`. Image files are read later, one by one."""
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

    As in `datasets`, there are classes if all images are at the same depth, and the folders name them; a single folder
    is a class too. A few images above these folders belong to no class and are not used.

    Args:
        labelled: whether classes are wanted; without them every image is used.

    Raises:
        ValueError: no such split, or folders that could be splits or classes.
    """
    splits = folder_splits({os.path.dirname(path) for path in listing.images}, split)
    found = {}
    for name, folders in splits.items():
        images = [path for path in listing.images if lies_in(path, folders)]
        found[name] = _classes(images, folders[0].count("/") + 1 if folders[0] else 0)
    images, above, reason = found[split]
    unused = [Unused(folder, f"the split {name!r}") for name in splits if name != split for folder in splits[name]]
    every_folder = [folder for folders in splits.values() for folder in folders]
    unused += [
        Unused(path, "an image beside the folders of splits")
        for path in listing.images
        if not lies_in(path, every_folder)
    ]
    if not labelled:
        return ImageFolder(listing, sorted([*images, *above]), None, None, unused)
    unused += [Unused(path, "an image above the folders of classes, so it has no class") for path in above]
    names = {_class_of(path) for paths, _, why in found.values() if why is None for path in paths}
    return ImageFolder(listing, images, sorted(names) if reason is None else None, reason, unused)


def _classes(images: list[str], depth: int) -> tuple[list[str], list[str], str | None]:
    """
    The images that are used, the images above the folders of classes, and why there are no classes, or None.

    Args:
        depth: number of folders above an image that is directly in the split.
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


def lies_in(path: str, folders: Iterable[str]) -> bool:
    """Whether a relative path is in one of these folders; "" is the whole folder."""
    return any(not folder or path.startswith(f"{folder}/") for folder in folders)


def _utf8(path: str) -> str:
    """The name with replacement characters for what is not UTF-8, which Arrow requires."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _split_of(name: str) -> str | None:
    """The split that a name means: "train" for "Training", None for "bullet_train"."""
    return _SPLIT_OF_WORD.get(name.lower())


def _split_within(name: str) -> str | None:
    """The split whose word is part of a name: "train" for "train2017" and for "bullet_train"."""
    found = _AMONG_OTHERS.search(name.lower())
    return None if found is None else _SPLIT_OF_WORD[found[1]]


def folder_splits(folders: set[str], wanted: str) -> dict[str, list[str]]:
    """
    Which folders of a folder of images are splits.

    They are splits if each folder that holds images is named like one ("train", "val"), or if all names contain the
    words of several splits ("train2017", "val2017"). A class may be called "train" if there are other classes.

    Args:
        folders: relative paths of the folders that hold images, "" for the whole folder.
        wanted: the split that is asked for; a folder of exactly this name is one, too.

    Returns:
        split -> its folders; {"train": [""]} if no folder is a split.
    Raises:
        ValueError: no split `wanted`, or splits beside other folders, so that they could be splits or classes.
    """
    splits = _folder_splits(folders, wanted) or {"train": [""]}
    check_split(wanted, splits)
    return splits


def check_split(wanted: str, splits: Iterable[str]) -> None:
    """Raises ValueError for a split that is none of these."""
    if wanted not in splits:
        raise ValueError(
            f"it has no split {wanted!r}; its splits are: {', '.join(splits)}. Choose one of them, in commands with "
            "--split."
        )


def _folder_splits(folders: set[str], wanted: str) -> dict[str, list[str]] | None:
    base, candidates = _first_fork(folders, wanted)
    names = {candidate: wanted if candidate == wanted else _split_of(candidate) for candidate in candidates}
    if any(name is None for name in names.values()):
        within = {candidate: names[candidate] or _split_within(candidate) for candidate in candidates}
        if None not in within.values() and len(set(within.values())) > 1:
            names = within
    if not any(names.values()):
        return None
    others = [candidate for candidate, split in names.items() if split is None]
    if others:
        lie_directly = all(path == base or path[len(base) :].strip("/").count("/") == 0 for path in folders)
        named = [candidate for candidate, split in names.items() if split is not None]
        if lie_directly and len(named) == 1:
            return None
        raise ValueError(
            f"folders that are named like splits ({', '.join(sorted(named))}) lie beside others "
            f"({', '.join(sorted(others)[:3])}), so they could be splits or classes. Name the folder of one split."
        )
    found = defaultdict(list)
    for candidate, split in sorted(names.items()):
        found[str(split)].append(f"{base}/{candidate}" if base else candidate)
    return dict(found)


def file_splits(files: list[str]) -> dict[str, list[str]]:
    """
    The split of each file: by a folder above it ("test/0.parquet"), or by its own name ("test-0.parquet",
    "holdout-00000-of-00002.parquet"). If no name contains a split, all files are "train".

    Args:
        files: relative paths.
    Raises:
        ValueError: some names contain a split and others do not.
    """
    found: dict[str | None, list[str]] = defaultdict(list)
    for file in files:
        *folders, name = PurePosixPath(file).parts
        numbered = _NUMBERED.match(name)
        split = next(filter(None, map(_split_of, folders)), None)
        split = split or (numbered[1] if numbered else _split_within(name.partition(".")[0]) or _split_within(name))
        found[split].append(file)
    unnamed = found.pop(None, [])
    if unnamed and found:
        raise ValueError(
            f"some files are named like splits ({next(iter(found.values()))[0]}) and others are not ({unnamed[0]}). "
            'Name the files of one split, such as "folder/train-*.parquet".'
        )
    return {"train": unnamed} if unnamed else {str(split): paths for split, paths in found.items()}


def _first_fork(folders: set[str], wanted: str) -> tuple[str, set[str]]:
    """The uppermost folder that holds images, several folders of images or a split; and the folders in it."""
    base = ""
    while True:
        candidates = {path[len(base) :].strip("/").partition("/")[0] for path in folders if path != base}
        if base in folders or len(candidates) != 1:
            return base, candidates
        (only,) = candidates
        if _split_of(only) or only == wanted:
            return base, candidates
        base = f"{base}/{only}" if base else only
