"""Which split of a data set a folder or a file belongs to, as its name says."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath

# The words of `datasets`.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_ANY_WORD = "|".join(sorted(_SPLIT_OF_WORD, key=len, reverse=True))
_AMONG_OTHERS = re.compile(rf"(?:^|[-._ 0-9])({_ANY_WORD})(?:[-._ 0-9]|$)")
_NUMBERED = re.compile(r"(.+)-\d{5}-of-\d{5}")


def split_of(name: str) -> str | None:
    """The split that a name stands for: "train" for "Training", None for "bullet_train"."""
    return _SPLIT_OF_WORD.get(name.lower())


def split_within(name: str) -> str | None:
    """The split whose word is in a name: "train" for "train2017" and for "bullet_train"."""
    found = _AMONG_OTHERS.search(name.lower())
    return None if found is None else _SPLIT_OF_WORD[found[1]]


def folder_splits(folders: set[str], wanted: str) -> dict[str, list[str]] | None:
    """
    Which folders of a folder of images are splits.

    They are if each folder that holds images is named like one ("train", "val"), or if all names contain words of
    several splits ("train2017", "val2017"). A class may be called "train" if other classes lie beside it.

    Args:
        folders: relative paths of the folders in which images lie, "" for the whole folder.
        wanted: the split that is asked for; a folder of exactly this name is one, too.

    Returns:
        split -> its folders; None if the whole folder is one split.
    Raises:
        ValueError: splits and other folders lie side by side, so that either could be meant.
    """
    base, candidates = _first_fork(folders, wanted)
    names = {
        candidate: split_of(candidate) or (candidate if candidate == wanted else None) for candidate in candidates
    }
    if wanted in candidates:
        names[wanted] = wanted
    if any(name is None for name in names.values()):
        within = {candidate: names[candidate] or split_within(candidate) for candidate in candidates}
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
    "holdout-00000-of-00002.parquet"). If no name says anything, all of them are "train".

    Args:
        files: relative paths.
    Raises:
        ValueError: some names say a split and others do not.
    """
    found: dict[str | None, list[str]] = defaultdict(list)
    for file in files:
        *folders, name = PurePosixPath(file).parts
        numbered = _NUMBERED.match(name)
        split = next(filter(None, map(split_of, folders)), None)
        split = split or (numbered[1] if numbered else split_within(name.partition(".")[0]) or split_within(name))
        found[split].append(file)
    unnamed = found.pop(None, [])
    if unnamed and found:
        raise ValueError(
            f"some files are named like splits ({next(iter(found.values()))[0]}) and others are not ({unnamed[0]}). "
            'Name the files of one split, such as "folder/train-*.parquet".'
        )
    return {"train": unnamed} if unnamed else {str(split): paths for split, paths in found.items()}


def _first_fork(folders: set[str], wanted: str) -> tuple[str, set[str]]:
    """The uppermost folder that holds images, several folders of images, or one that is named like a split."""
    base = ""
    while True:
        candidates = {path[len(base) :].strip("/").partition("/")[0] for path in folders if path != base}
        if base in folders or len(candidates) != 1:
            return base, candidates
        (only,) = candidates
        if split_of(only) or only == wanted:
            return base, candidates
        base = f"{base}/{only}" if base else only


__all__ = ["file_splits", "folder_splits", "split_of", "split_within"]
