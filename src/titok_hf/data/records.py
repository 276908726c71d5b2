"""Images on their way from a source through a worker. Without torch and `datasets`, workers start at once."""

import math
import os
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from .decoding import Decoded, Decoding, UnusableImage, reason_of
from .report import ImageReport, Report

SOURCE_INDEX = "source_index"

# The column in which a source says why a row cannot be used.
ERROR = "__error__"


@dataclass(frozen=True)
class Record:
    """
    One image of a source, not decoded.

    Args:
        source_index: its number in the source, from 0; or the value of the column `source_index`, if there is one.
        content: the bytes of the file; None if only its path is known.
        path: path or name of the file, if there is one.
        label: the value of the label column, unchecked.
        error: why the source cannot read it.
    """

    source_index: int
    content: bytes | None
    path: str | None
    label: Any = None
    error: str | None = None

    def read(self) -> bytes:
        """The bytes of the file; OSError if they cannot be read."""
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
    """Neighbouring images of the source, the number of their shard, and whether the source ends with them."""

    shard: int
    records: list[Record]
    is_last_of_source: bool


@dataclass
class ConvertedChunk:
    """The columns that a worker made of a chunk, one value for each row, and the report on its images."""

    shard: int
    is_last_of_source: bool
    columns: dict[str, list]
    report: Report


@dataclass(frozen=True)
class ChunkConverter:
    """
    Turns chunks into columns, and reports the images for which this failed.

    Args:
        label_names: names of the classes, to check labels; None for labels without names.
        has_labels: whether there is a column of labels.
    """

    label_names: list[str] | None
    has_labels: bool

    def __call__(self, chunk: Chunk) -> ConvertedChunk:
        report = Report(num_images=len(chunk.records))
        columns: defaultdict[str, list] = defaultdict(list)
        for record in chunk.records:
            try:
                if record.error is not None:
                    raise UnusableImage(record.error)
                label = checked_label(record.label, self.label_names) if self.has_labels else None
                decoded = decode_record(record, self.decoding())
                rows = self._prepared(decoded.image, record)
            except ValueError as error:  # UnusableImage, or a label that is no class
                report.skipped.append(ImageReport(record.source_index, record.path, str(error)))
                continue
            report.num_transparent += decoded.is_transparent
            if decoded.conversion is not None:
                report.converted.append(ImageReport(record.source_index, record.path, decoded.conversion))
            for row in rows:
                for name, value in (row | {"label": label, SOURCE_INDEX: record.source_index}).items():
                    columns[name].append(value)
        return ConvertedChunk(chunk.shard, chunk.is_last_of_source, self.finished(columns), report)

    def decoding(self) -> Decoding:
        """How files are read."""
        raise NotImplementedError

    def prepare_image(self, image: PILImage.Image, record: Record) -> list[dict[str, Any]]:
        """The rows that one image in RGB becomes."""
        raise NotImplementedError

    def finished(self, columns: dict[str, list]) -> dict[str, list]:
        """The columns of a chunk after a last step on all of its rows together; a chunk without rows has none."""
        return columns

    def _prepared(self, image: PILImage.Image, record: Record) -> list[dict[str, Any]]:
        try:
            return self.prepare_image(image, record)
        # Image formats have limits, such as 16,383 pixels for WebP, and so has memory.
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise UnusableImage(f"it cannot be prepared ({reason_of(error)})") from error


def checked_label(value: Any, names: list[str] | None) -> int:
    """
    A label as a number. Whole floats are accepted and NaN means no label: pandas writes both if a label is missing.

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
    """Reads and decodes; UnusableImage also for files that cannot be read."""
    try:
        content = record.read()
    except (OSError, ValueError) as error:
        is_renamed = record.path is not None and "\N{REPLACEMENT CHARACTER}" in record.path
        reason = "its name is not UTF-8; rename it" if is_renamed else getattr(error, "strerror", None) or error
        raise UnusableImage(f"the file cannot be read ({reason})") from error
    return decoding.decode(content)


def check_regular_file(path: str | os.PathLike) -> None:
    """Raises OSError for anything but a regular file: reading a device or a pipe may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")
