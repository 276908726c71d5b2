"""Webdataset shards (tar files whose members share a name) as a data set: damage is named, the rest is read."""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import fsspec
from datasets import (
    Dataset,
    DatasetInfo,
    Features,
    GeneratorBasedBuilder,
    Image,
    IterableDataset,
    SplitGenerator,
    Value,
)
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .decoding import reason_of
from .records import ERROR, check_regular_file

_TEXTS = ("txt", "text", "transcript")
_IMAGES = frozenset(WebDataset.IMAGE_EXTENSIONS)

# As in webdataset, a sample's name ends at the first dot after the last slash.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)

# Samples of a stream from which its columns are inferred; local tar files are read to the end for this.
_NUM_SAMPLES_OF_STREAM = 100

# More kinds of members than this come from names with dots in them, not from a data set.
_MOST_COLUMNS = 32


class TarImages(GeneratorBasedBuilder):
    """
    Tar files as rows. The column of images is named by their suffix, or "image" if there are several suffixes and one
    image in each sample; other columns are named by the suffixes of their members. Labels (`.cls`) are bytes, which
    `Source` converts.
    """

    DEFAULT_WRITER_BATCH_SIZE = 100

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        splits = []
        for split, names in self.config.data_files.items():
            names = [str(name) for name in names]
            paths = [str(path) for path in dl_manager.download(names)]
            known: Iterator[_Sample] = chain.from_iterable(_samples(path, with_content=False) for path in paths)
            if dl_manager.is_streaming:
                known = islice(known, _NUM_SAMPLES_OF_STREAM)
            image_column, self.info.features = _columns(known, names)
            files = [f"{name}\n{path}" for name, path in zip(names, paths, strict=True)]
            splits.append(SplitGenerator(split, gen_kwargs={"files": files, "image_column": image_column}))
        return splits

    def _generate_examples(self, files: list[str], image_column: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for file in files:
            name, _, path = file.partition("\n")
            for sample in _samples(path):
                if sample.error is not None:
                    sample.key = os.path.basename(name)
                yield number, self._row(sample, image_column)
                number += 1

    def _row(self, sample: _Sample, image_column: str | None) -> dict[str, Any]:
        nothing = {"bytes": b"", "path": sample.key}
        row: dict[str, Any] = {
            name: nothing if isinstance(f, Image) else None for name, f in self.info.features.items()
        }
        row["__key__"], row[ERROR] = sample.key, sample.error
        images = [member for kind, member in sample.members.items() if _is_image(kind)]
        for kind, member in sample.members.items():
            column = image_column if image_column is not None and _is_image(kind) else kind
            if column in row:
                row[column] = _value(kind, member)
        if image_column is not None and len(images) == 1:
            row[ERROR] = images[0].error
        elif image_column is not None and images:
            row[ERROR] = f"its sample holds several images ({', '.join(image.name for image in images)})"
        return row


def open_tar_files(files: str | list[str], split: str, streaming: bool) -> Dataset | IterableDataset:
    """
    Tar files by path, pattern or URL as the split of that name.

    Raises:
        ValueError: no tar file can be read, or the names of members make no columns.
    """
    if isinstance(files, list):
        files = [file if "://" in file else glob.escape(file) for file in files]
    builder = TarImages(dataset_name="tar_images", data_files={split: files})
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _columns(known: Iterable[_Sample], names: list[str]) -> tuple[str | None, Features]:
    """The name of the column of images if each sample has one, else None; and all columns."""
    kinds: Counter[str] = Counter()
    most_images, error = 0, None
    for sample in known:
        kinds.update(sample.members.keys())
        most_images = max(most_images, sum(map(_is_image, sample.members)))
        error = error or (sample.error and f"{sample.key}: {sample.error}")
    if not kinds:
        raise ValueError(f"no images are in {len(names)} tar files. {error or 'They are empty.'}")
    images = [kind for kind in kinds if _is_image(kind)]
    image_column = None
    if most_images == 1:
        image_column = images[0] if len(images) == 1 else "image"
        images = [image_column]
    others = [kind for kind, _ in kinds.most_common() if not _is_image(kind)]
    if len(images) > _MOST_COLUMNS:
        raise ValueError(
            f"the members of its samples have {len(images)} kinds of suffixes ({', '.join(images[:3])}, ...). In tar "
            "files a name ends at its first dot: rename files such as photo.1.png to photo_1.png."
        )
    features = {"__key__": Value("string"), ERROR: Value("string")} | {name: Image() for name in images}
    for kind in others[:_MOST_COLUMNS]:
        features.setdefault(kind, Value("string" if kind.rpartition(".")[2] in _TEXTS else "binary"))
    return image_column, Features(features)


def _is_image(kind: str) -> bool:
    return kind.rpartition(".")[2] in _IMAGES


def _value(kind: str, member: _Member) -> Any:
    if _is_image(kind):
        return {"bytes": member.content or b"", "path": member.name}
    if kind.rpartition(".")[2] in _TEXTS and member.content is not None:
        return member.content.decode("utf-8", errors="replace")
    return member.content


@dataclass(frozen=True)
class _Member:
    """A file in a tar file, by its path; or what is wrong with the tar file itself, by the path of that."""

    name: str
    content: bytes | None = None
    error: str | None = None


@dataclass
class _Sample:
    """Neighbouring members that share the name `key`, by their suffix in lower case; or an error of the tar file."""

    key: str
    members: dict[str, _Member] = field(default_factory=dict)
    error: str | None = None


def _samples(path: str, with_content: bool = True) -> Iterator[_Sample]:
    """
    The samples of a tar file in order, compressed or not, on this machine or as a stream from a URL. If the same
    member comes twice, a second sample begins. Names alone (without content) are read much faster.
    """
    sample: _Sample | None = None
    for member in _members(path, with_content):
        found = _NAME.fullmatch(member.name) if member.error is None or member.name != path else None
        if found is None:
            if member.error is not None:
                yield _Sample(os.path.basename(path), error=member.error)
            continue
        key, kind = found[1], found[2].lower()
        if sample is None or sample.key != key or kind in sample.members:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        sample.members[kind] = member
    if sample is not None:
        yield sample


def _members(path: str, with_content: bool) -> Iterator[_Member]:
    """The files of a tar file, without hidden ones, and what is wrong with it."""
    with ExitStack() as stack:
        try:
            archive = _open(path, stack)
            while (header := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                name = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if header.isdir() or any(part.startswith((".", "__")) for part in name.split("/") if part != "."):
                    continue
                yield _read(archive, header, name) if with_content else _Member(name)
        # Damaged headers can raise any exception.
        except Exception as error:
            yield _Member(path, error=f"the tar file cannot be read further ({reason_of(error)})")
            return
        if archive.damaged_at is not None:
            yield _Member(path, error=f"the tar file is damaged at byte {archive.damaged_at:,}; images may be missing")
        elif not archive.has_end:
            yield _Member(path, error="the tar file has no end mark, so it may be cut off; images may be missing")


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
    """Continues after damage, and records where it is."""

    tarinfo = _CheckedHeader
    ignore_zeros = True  # also continues after a block that is no header
    damaged_at: int | None = None
    has_end = False
    by_name: dict[str, tarfile.TarInfo] | None = None

    def target(self, link: tarfile.TarInfo) -> tarfile.TarInfo:
        """The member that a link points to; KeyError if there is none, or if the archive is read as a stream."""
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


def _read(archive: _CheckedTarFile, header: tarfile.TarInfo, name: str) -> _Member:
    try:
        target = archive.target(header) if header.islnk() or header.issym() else header
    except (KeyError, tarfile.TarError):
        return _Member(name, error="it is a link in a tar file, and its target cannot be found there")
    if not target.isreg():
        return _Member(name, error="it is no regular file in its tar file")
    file = archive.extractfile(target)
    content = b"" if file is None else file.read()
    if len(content) != target.size:
        return _Member(name, error="the tar file ends within it")
    return _Member(name, content)
