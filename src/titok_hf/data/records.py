"""Images on their way from a source through a worker. Needs neither torch nor `datasets`: workers start at once."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from .decoding import Decoded, Decoding, UnusableImage, reason_of
from .report import ImageReport

SOURCE_INDEX = "source_index"

# The column in which a source says of a row why it cannot be used.
ERROR = "__error__"


@dataclass(frozen=True)
class Record:
    """
    One image as it lies in the source.

    Args:
        source_index: its number in the source, from 0; the source's own column `source_index`, if there is one.
        content: the bytes of the file, or None if only its path is known.
        path: the file's path or name, if there is one.
        label: what the label column says, unchecked.
        error: why the source could not read it.
    """

    source_index: int
    content: bytes | None
    path: str | None
    label: Any = None
    error: str | None = None

    def read(self) -> bytes:
        """The bytes of the file; OSError if they cannot be had."""
        if self.error is not None:
            raise OSError(self.error)
        if self.content is not None:
            return self.content
        if self.path is None:
            return b""
        if "://" in self.path:
            import fsspec

            with fsspec.open(self.path, "rb") as file:
                return file.read()
        check_regular_file(self.path)
        return Path(self.path).read_bytes()


@dataclass(frozen=True)
class Chunk:
    """
    Neighbouring images of the source on their way to a worker.

    Args:
        shard: number of the shard that they belong to.
        records: the images.
        is_last_of_source: whether no more follow.
    """

    shard: int
    records: list[Record]
    is_last_of_source: bool


@dataclass
class ConvertedChunk:
    """
    What a worker made of a chunk.

    Args:
        columns: name -> one value a row.
        skipped, converted: images that are left out, and images of unusual modes that were converted.
        num_transparent: images that were laid on the background.
    """

    shard: int
    num_images: int
    is_last_of_source: bool
    columns: dict[str, list]
    skipped: list[ImageReport] = field(default_factory=list)
    converted: list[ImageReport] = field(default_factory=list)
    num_transparent: int = 0


@dataclass(frozen=True)
class ChunkConverter:
    """
    Turns chunks into columns and keeps a list of the images for which that failed.

    Args:
        label_names: names of the classes, which labels are checked against; None for labels without names.
        has_labels: whether there is a column of labels.
    """

    label_names: list[str] | None
    has_labels: bool

    def __call__(self, chunk: Chunk) -> ConvertedChunk:
        result = ConvertedChunk(chunk.shard, len(chunk.records), chunk.is_last_of_source, {})
        usable = []
        for record in chunk.records:
            try:
                if record.error is not None:
                    raise UnusableImage(record.error)
                label = self._label(record)
                decoded = decode_record(record, self.decoding())
                image = self._prepared(decoded.image, record)
            except UnusableImage as error:
                result.skipped.append(ImageReport(record.source_index, record.path, str(error)))
                continue
            result.num_transparent += decoded.is_transparent
            if decoded.conversion is not None:
                result.converted.append(ImageReport(record.source_index, record.path, decoded.conversion))
            usable.append((record, label, image))
        result.columns = self.columns_of(usable)
        return result

    def decoding(self) -> Decoding:
        """How files are read."""
        raise NotImplementedError

    def prepare_image(self, image: PILImage.Image, record: Record) -> Any:
        """What one image in RGB becomes."""
        raise NotImplementedError

    def columns_of(self, usable: list[tuple[Record, int | None, Any]]) -> dict[str, list]:
        """The rows of a chunk, from records, labels and prepared images."""
        raise NotImplementedError

    def _prepared(self, image: PILImage.Image, record: Record) -> Any:
        try:
            return self.prepare_image(image, record)
        # Encoders have limits of their own, such as the 16,383 pixels of WebP; memory has one, too.
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise UnusableImage(f"it cannot be prepared ({reason_of(error)})") from error

    def _label(self, record: Record) -> int | None:
        if not self.has_labels:
            return None
        try:
            return checked_label(record.label, self.label_names)
        except ValueError as error:
            raise UnusableImage(str(error)) from error


def checked_label(value: Any, names: list[str] | None) -> int:
    """
    A label as a number. Whole floats are numbers, and NaN is no label: pandas has these where a label is missing.

    Raises:
        ValueError: no label, not a whole number, or outside of the named classes.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("it has no label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        kind = "whole number" if isinstance(value, float) else "number"
        raise ValueError(f"the label is {value!r}, which is not a {kind}")
    if names is not None and not 0 <= value < len(names):
        raise ValueError(f"the label is {value}, which is not in [0, {len(names)})")
    return value


def decode_record(record: Record, decoding: Decoding) -> Decoded:
    """Reads and decodes; UnusableImage covers files that cannot be read."""
    try:
        content = record.read()
    except (OSError, ValueError) as error:
        is_renamed = record.path is not None and "\N{REPLACEMENT CHARACTER}" in record.path
        reason = "its name is not UTF-8; rename it" if is_renamed else getattr(error, "strerror", None) or error
        raise UnusableImage(f"the file cannot be read ({reason})") from error
    return decoding.decode(content)


def check_regular_file(path: str | os.PathLike) -> None:
    """Raises OSError for what has no end, such as a device, and for what reading would wait for, such as a pipe."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")


__all__ = [
    "ERROR",
    "SOURCE_INDEX",
    "Chunk",
    "ChunkConverter",
    "ConvertedChunk",
    "Record",
    "check_regular_file",
    "checked_label",
    "decode_record",
]
