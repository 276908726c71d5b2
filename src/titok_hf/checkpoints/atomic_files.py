"""Files and folders that are either complete or absent: written under another name first, then renamed.

They get the permissions that the umask allows, whatever library wrote them, and are on the disk before they replace
anything.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there the folders of killed processes stay
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-"
"""Prefix of the names of files and folders that are being written."""


def write_atomically(path: str | os.PathLike, content: bytes | Callable[[Path], object]) -> Path:
    """
    Write one file, of which other processes never see a part: the old file stays until the new one is complete.

    A link stays a link, and the file that it points to is written. A pipe or a device (`/dev/stdout`) is not replaced;
    the content is written into it.

    Args:
        path: the file to write. Missing folders above it are made.
        content: its bytes, or a function that writes them to the path it is given. That path has the suffix of `path`,
            by which some libraries (Pillow, numpy) choose the format.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written; the folder is as it was.
    """
    path = Path(path)
    if _is_stream(path):
        _write_through(path, content)
        return path
    place, path = path, Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_unfinished_name()}-{path.name}")
    try:
        unfinished.touch()
        permissions = unfinished.stat().st_mode & 0o777
        if callable(content):
            content(unfinished)
        else:
            unfinished.write_bytes(content)
        unfinished.chmod(permissions)
        flush_to_disk(unfinished)
        os.replace(unfinished, path)
        flush_names(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return place


def _is_stream(path: Path) -> bool:
    """Whether a path is something that takes bytes but is no regular file: a pipe, a device, a stream of a process."""
    if Path(os.path.abspath(path)).is_relative_to("/dev"):  # /dev/stdout may be a file that others have open too
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def _write_through(path: Path, content: bytes | Callable[[Path], object]) -> None:
    if callable(content):
        with TemporaryDirectory() as folder:
            whole = Path(folder, path.name).with_suffix(path.suffix)
            content(whole)
            content = whole.read_bytes()
    with path.open("wb") as stream:
        stream.write(content)


@contextmanager
def folder_atomically(
    path: str | os.PathLike,
    last: Sequence[str] = (),
    outdated: Callable[[Iterable[str], Iterable[str]], Iterable[str]] | None = None,
) -> Iterator[Path]:
    """
    A context with an empty folder to fill, whose files are moved into `path` if the block ends without an error.

    Files of the same name are replaced, also in subfolders; other files stay (a README, a `.git`, the weights of
    another variant). After an error, also one between two moves, `path` is as it was.

    Args:
        path: the folder to write; made if missing.
        last: names of the files that make the folder complete, the most important one at the end. Their old versions
            are removed first and the new ones come last, so a folder whose writer was killed between two moves does
            not look complete.
        outdated: a function of the files beside the new ones and of the new ones, as paths relative to `path`. It
            returns those of the former that the latter make invalid; they are removed.

    Raises:
        OSError: the folder cannot be written, or has a folder where a file is to be written.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, and a folder is to be written there. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Files are renamed within one file system only: a folder that exists may be the root of its own.
    with _workplace(path if path.exists() else path.parent, path.name) as unfinished:
        yield unfinished
        set_permissions(unfinished)
        flush_to_disk(unfinished)
        if not path.exists():
            os.replace(unfinished, path)
            flush_names(path.parent)
            return
        new = [file.relative_to(unfinished).as_posix() for file in unfinished.rglob("*") if not file.is_dir()]
        new.sort(key=lambda name: (last.index(Path(name).name) if Path(name).name in last else -1, name))
        old = set() if outdated is None else set(outdated(_files_beside(path, new), new))
        with _workplace(path, path.name) as replaced:
            _exchange(unfinished, path, replaced, new, old - set(new))


def set_permissions(folder: Path) -> None:
    """
    Give all files in a folder the permissions that the umask allows: some libraries (safetensors, `tempfile`) write
    files that other users cannot read.
    """
    permissions = folder.stat().st_mode & 0o666
    for top, _, names in os.walk(folder):
        for path in (Path(top, name) for name in names):
            if path.is_file() and not path.is_symlink():
                path.chmod(permissions)


def flush_to_disk(path: Path) -> None:
    """
    Wait until a file, or a folder with all its files, is on the disk. Otherwise a file could be empty after a rename
    and a power cut.
    """
    for folder, _, files in os.walk(path):
        for name in files:
            _fsync(Path(folder, name))
        flush_names(Path(folder))
    if path.is_file():
        _fsync(path)


def _exchange(source: Path, target: Path, replaced: Path, names: list[str], outdated: Iterable[str]) -> None:
    """Move files from `source` into `target`, and the files that they replace or outdate into `replaced`."""
    for name in names:
        _check_place(target, Path(name))
    moves: list[tuple[Path, Path]] = []
    new_folders: list[Path] = []

    def move(one: Path, other: Path) -> None:
        new_folders.extend(folder for folder in reversed(other.parents) if not folder.exists())
        other.parent.mkdir(parents=True, exist_ok=True)
        os.replace(one, other)
        moves.append((one, other))

    try:
        # In reverse order, so that the file which makes the folder complete is removed first.
        for name in [*reversed(names), *sorted(outdated)]:
            if os.path.lexists(target / name):
                move(target / name, replaced / name)
        for name in names:
            move(source / name, target / name)
        for parent in sorted({parent for name in names for parent in Path(name).parents}, reverse=True):
            flush_names(target / parent)
    except BaseException:
        for one, other in reversed(moves):
            os.replace(other, one)
        for folder in reversed(new_folders):
            with suppress(OSError):
                folder.rmdir()
        raise


def _check_place(target: Path, name: Path) -> None:
    """Refuse to replace a folder by a file, or a file by a folder: this package did not write it."""
    if (target / name).is_dir():
        raise IsADirectoryError(f"{target / name} is a folder, and a file is to be written there. Move it away.")
    for parent in (target / parent for parent in name.parents):
        if os.path.lexists(parent) and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file, and a folder is to be written there. Move it away.")


@contextmanager
def _workplace(folder: Path, name: str) -> Iterator[Path]:
    """A temporary folder in another; removes it at the end, and before it those that killed processes left behind."""
    for leftover in folder.glob(f"{UNFINISHED}*-{escape(name)}"):
        if leftover.is_dir() and _is_abandoned(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    workplace = folder / f"{_unfinished_name()}-{name}"
    workplace.mkdir()
    with _locked(workplace):
        try:
            yield workplace
        finally:
            shutil.rmtree(workplace, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A lock on a folder, which the system removes when this process ends; no lock on systems without such locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    """Whether the process that made a temporary folder has ended, and with it its lock."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _unfinished_name() -> str:
    """A new name. The process number alone is not enough: another machine or a later process may have the same."""
    return f"{UNFINISHED}{os.getpid()}-{uuid4().hex[:8]}"


def _files_beside(folder: Path, names: Iterable[str]) -> list[str]:
    """The files in the folders of the named ones, as paths relative to `folder`."""
    parents = {Path(name).parent for name in names}
    return [
        (parent / path.name).as_posix()
        for parent in parents
        if (folder / parent).is_dir()
        for path in (folder / parent).iterdir()
        if path.is_symlink() or path.is_file()
    ]


def flush_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system supports it."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        with suppress(OSError):  # and some network file systems refuse it
            _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
