"""The members of tar files, damaged ones too: what cannot be read is reported, and the rest is read."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import fsspec

from .decoding import reason_of
from .records import check_regular_file

# A sample's name reaches up to the first dot behind the last slash, as webdataset has it.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """
    One file of a tar file.

    Args:
        name: its path in there.
        content: its bytes; None if they were not asked for or cannot be read.
        error: why they cannot be read, or what is wrong with the tar file itself, which then is the name.
    """

    name: str
    content: bytes | None = None
    error: str | None = None


@dataclass
class Sample:
    """
    Neighbouring members that share a name.

    Args:
        key: the name.
        members: by what follows the name, in small letters: "png", "cls".
        error: what is wrong with the tar file; such a sample has no members.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    error: str | None = None


def samples(path: str, with_content: bool = True) -> Iterator[Sample]:
    """
    The samples of a tar file, compressed or not.

    Args:
        path: a path or URL; what lies elsewhere is read as a stream.
        with_content: whether members are read; names alone are much faster.

    Yields:
        samples in order; where the same member comes twice, a second sample begins. Damage, and a file that is no tar
        file at all, is a sample with an error.
    """
    sample: Sample | None = None
    for member in members(path, with_content):
        found = _NAME.fullmatch(member.name) if member.error is None or member.name != path else None
        if found is None:
            if member.error is not None:
                yield Sample(os.path.basename(path), error=member.error)
            continue
        key, kind = found[1], found[2].lower()
        if sample is None or sample.key != key or kind in sample.members:
            if sample is not None:
                yield sample
            sample = Sample(key)
        sample.members[kind] = member
    if sample is not None:
        yield sample


def members(path: str, with_content: bool = True) -> Iterator[Member]:
    """The files of a tar file, without hidden ones. Arguments and errors are those of `samples`."""
    with ExitStack() as stack:
        try:
            archive = _open(path, stack)
            while (header := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                name = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if header.isdir() or any(part.startswith((".", "__")) for part in name.split("/") if part != "."):
                    continue
                yield _read(archive, header, name) if with_content else Member(name)
        # Damaged headers end in whatever exception their numbers and texts lead to.
        except Exception as error:
            yield Member(path, error=f"the tar file cannot be read further ({reason_of(error)})")
            return
        if archive.damaged_at is not None:
            yield Member(path, error=f"the tar file is damaged at byte {archive.damaged_at:,}; images may be missing")
        elif not archive.has_end:
            yield Member(path, error="the tar file has no end mark, so it may be cut off; images may be missing")


class _CheckedHeader(tarfile.TarInfo):
    """Records in the archive what `tarfile` ignores without a message."""

    @classmethod
    def fromtarfile(cls, archive: _CheckedTarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.has_end = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if archive.offset == 0:
                raise tarfile.ReadError(f"it is no tar file: {error}") from error
            if archive.damaged_at is None:
                archive.damaged_at = archive.offset
            raise


class _CheckedTarFile(tarfile.TarFile):
    """Continues behind damage, and records it."""

    tarinfo = _CheckedHeader
    ignore_zeros = True  # also: behind a header that is none
    damaged_at: int | None = None
    has_end = False
    by_name: dict[str, tarfile.TarInfo] | None = None

    def target(self, link: tarfile.TarInfo) -> tarfile.TarInfo:
        """The member that a link leads to; KeyError if there is none, or if the archive is read as a stream."""
        if self.by_name is None:
            if not isinstance(self.fileobj, io.BufferedReader):  # seeking in compressed data takes very long
                raise KeyError(link.linkname)
            with tarfile.open(self.name, "r:") as again:
                self.by_name = {member.name: member for member in again if member.isreg()}
        folder = os.path.dirname(link.name) if link.issym() else ""
        return self.by_name[os.path.normpath(os.path.join(folder, link.linkname))]


def _open(path: str, stack: ExitStack) -> _CheckedTarFile:
    if "://" in path:
        file = stack.enter_context(fsspec.open(path, "rb"))
        return stack.enter_context(_CheckedTarFile.open(fileobj=file, mode="r|*"))
    check_regular_file(path)
    try:
        return stack.enter_context(_CheckedTarFile.open(path, "r:*"))
    except tarfile.ReadError as error:
        reason = "it is no tar file" if os.path.getsize(path) else "it is an empty file"
        raise tarfile.ReadError(reason) from error


def _read(archive: _CheckedTarFile, header: tarfile.TarInfo, name: str) -> Member:
    try:
        target = archive.target(header) if header.islnk() or header.issym() else header
    except (KeyError, tarfile.TarError):
        return Member(name, error="it is a link in a tar file, and its target cannot be found there")
    if not target.isreg():
        return Member(name, error="it is no regular file in its tar file")
    file = archive.extractfile(target)
    content = b"" if file is None else file.read()
    if len(content) != target.size:
        return Member(name, error="the tar file ends within it")
    return Member(name, content)


__all__ = ["Member", "Sample", "members", "samples"]
