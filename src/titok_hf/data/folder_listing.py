"""Everything below a folder: what is not used is named too, so that no image is lost without a message."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .report import Unused

METADATA_FILES = frozenset(("metadata.csv", "metadata.jsonl", "metadata.parquet"))
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_IMAGE_SUFFIXES = frozenset(ImageFolder.EXTENSIONS)

# Folders that file systems create.
_SYSTEM_FOLDERS = frozenset(("lost+found", "$RECYCLE.BIN", "System Volume Information"))

_NUM_EXAMPLES = 3


@dataclass
class FolderListing:
    """
    The files below a folder. Paths are relative to it, use "/", and are sorted.

    Args:
        folder: its absolute path.
        images: files whose suffix names a format that Pillow reads, in any case.
        metadata: the files from which `datasets` reads labels and captions of images.
        files: all other files, by suffix.
        folders: all folders that were listed, "" among them.
        hidden: what was not listed: hidden files and folders, links to a folder above.
    """

    folder: str
    images: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    hidden: list[Unused] = field(default_factory=list)

    @classmethod
    def of(cls, folder: str | os.PathLike) -> FolderListing:
        """
        Lists a folder. Links to files and folders are followed, each folder once.

        Raises:
            OSError: a folder that cannot be read; its images would be missing.
        """
        listing = cls(os.path.abspath(folder))
        for subfolder, names in listing._walk():
            listing.folders.append(subfolder)
            for name in names:
                listing._add(f"{subfolder}/{name}" if subfolder else name, name)
        for paths in (listing.images, listing.metadata, listing.folders, *listing.files.values()):
            paths.sort()
        return listing

    @property
    def tar_files(self) -> list[str]:
        """Paths of all tar files, compressed ones too."""
        return sorted(path for suffix in TAR_SUFFIXES for path in self.files.get(suffix, []))

    def path(self, relative: str) -> str:
        """The absolute path of an entry."""
        return os.path.join(self.folder, relative) if relative else self.folder

    def digest(self, paths: Iterable[str]) -> str:
        """A digest of the names and sizes of files, which shows whether a source has changed."""
        return listing_digest((path, _size(self.path(path))) for path in paths)

    def unused(self, used: set[str] | None = None) -> list[Unused]:
        """
        What is in the folder besides the images: for each suffix the number of files and the first of them.

        Args:
            used: files beside the images that are used.
        """
        found = list(self.hidden)
        for suffix, paths in sorted(self.files.items()):
            left = [path for path in paths if used is None or path not in used]
            if left:
                shown = ", ".join(left[:_NUM_EXAMPLES]) + ", ..." * (len(left) > _NUM_EXAMPLES)
                kind = f"files of the suffix {suffix}" if suffix else "files without a suffix"
                found.append(
                    Unused(f"*{suffix}", f"{len(left):,} {kind}, which are no images of this source: {shown}")
                )
        return found

    def folders_without_images(self) -> list[Unused]:
        """The uppermost folders that have no images at any depth."""
        full = {""}
        for subfolder in {os.path.dirname(path) for path in self.images}:
            while subfolder not in full:
                full.add(subfolder)
                subfolder = os.path.dirname(subfolder)
        return [
            Unused(subfolder, "a folder without images")
            for subfolder in self.folders
            if subfolder not in full and os.path.dirname(subfolder) in full
        ]

    def _add(self, path: str, name: str) -> None:
        suffix = suffix_of(name)
        if _is_hidden(name):
            if suffix in _IMAGE_SUFFIXES:
                self.hidden.append(Unused(path, "a hidden file"))
        elif name in METADATA_FILES and os.path.isfile(self.path(path)):
            self.metadata.append(path)
        elif suffix in _IMAGE_SUFFIXES:
            self.images.append(path)
        else:
            self.files.setdefault(suffix, []).append(path)

    def _walk(self) -> Iterator[tuple[str, list[str]]]:
        """Each folder and the names of its files; links to folders are followed last, so that none is read twice."""
        root = os.path.realpath(self.folder)
        seen: set[str] = set()
        waiting = [""]
        while waiting:
            top = waiting.pop(0)
            real_top = os.path.realpath(self.path(top))
            if real_top in seen or root.startswith(real_top.rstrip(os.sep) + os.sep):
                self.hidden.append(Unused(top, "a link to a folder that is read already, or that this one lies in"))
                continue
            links = []
            for subfolder, folders, names in os.walk(self.path(top), onerror=_refuse):
                real = real_top + subfolder[len(self.path(top)) :]
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                relative = os.path.relpath(subfolder, self.folder).replace(os.sep, "/")
                relative = "" if relative == "." else relative
                for name in sorted(folders):
                    path = f"{relative}/{name}" if relative else name
                    if _is_hidden(name) or name in _SYSTEM_FOLDERS:
                        self.hidden.append(Unused(path, "a hidden folder, which is not looked into"))
                        folders.remove(name)
                    elif os.path.islink(os.path.join(subfolder, name)):
                        links.append(path)
                folders.sort()
                yield relative, names
            waiting += sorted(links)


def suffix_of(name: str) -> str:
    """The suffix in lower case, both parts of ".tar.gz"."""
    name = name.lower()
    return ".tar.gz" if name.endswith(".tar.gz") else os.path.splitext(name)[1]


def listing_digest(entries: Iterable[tuple[str, object]]) -> str:
    """A digest of names and of a fact about each (its size or version)."""
    digest = hashlib.sha256()
    for name, fact in entries:
        digest.update(f"{name}\0{fact}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # a broken link


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _refuse(error: OSError) -> None:
    raise OSError(
        f"The folder {error.filename} cannot be read ({error.strerror}), so its images would be missing. Make it "
        "readable, or move it elsewhere."
    ) from error
