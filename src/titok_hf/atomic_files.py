"""Files and folders that are either whole or absent: written beside their place, then renamed into it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: bytes | Callable[[Path], object]) -> Path:
    """
    Write one file so that nobody ever sees a part of it; what was there stays until the new file is complete.

    Args:
        path: the file to write. Missing folders above it are made.
        content: its bytes, or a function that writes them to the path it is given. That path has the suffix of `path`,
            so libraries that choose the format by the suffix (Pillow, numpy) choose the right one.

    Returns:
        `path`.

    Raises:
        OSError: the place cannot be written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        if callable(content):
            content(unfinished)
        else:
            unfinished.write_bytes(content)
        flush_to_disk(unfinished)
        os.replace(unfinished, path)
        flush_names(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


@contextmanager
def folder_atomically(path: str | os.PathLike, last: str | None = None) -> Iterator[Path]:
    """
    A context that gives an empty folder to fill, and moves its entries into `path` when the block ends without error.

    Entries of the same name are replaced; others in `path` (a README, a `.git`) stay. After an error, `path` is as it
    was.

    Args:
        path: the folder to write; made if missing.
        last: the entry that is moved last, namely the index which makes the folder a complete checkpoint.

    Raises:
        OSError: the place cannot be written.
    """
    path = Path(path).resolve()
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file, and a folder is to be written there. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renaming works within one file system: a folder that exists may be the root of its own.
    workplace = path if path.exists() else path.parent
    unfinished = workplace / f".unfinished-{os.getpid()}-{path.name}"
    replaced = workplace / f".replaced-{os.getpid()}-{path.name}"
    try:
        unfinished.mkdir()
        yield unfinished
        flush_to_disk(unfinished)
        if not path.exists():
            os.replace(unfinished, path)
            flush_names(path.parent)
            return
        replaced.mkdir()
        for entry in sorted(unfinished.iterdir(), key=lambda entry: entry.name == last):
            if (path / entry.name).exists():
                os.replace(path / entry.name, replaced / entry.name)
            os.replace(entry, path / entry.name)
        flush_names(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """
    Waits until a file, or a folder with everything in it, is on the disk. Without it, a power cut after a rename can
    leave the new name with no content behind it.
    """
    for folder, _, files in os.walk(path):
        for name in files:
            _fsync(Path(folder, name))
        flush_names(Path(folder))
    if path.is_file():
        _fsync(path)


def flush_names(folder: Path) -> None:
    """Waits until the names of a folder's entries are on the disk, where the system can do that."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        with suppress(OSError):  # and some network file systems refuse it
            _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["flush_names", "flush_to_disk", "folder_atomically", "write_atomically"]
