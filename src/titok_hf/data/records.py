"""Images on their way from a source through a worker. Needs neither torch nor `datasets`: workers start at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from .decoding import Decoding, UnusableImage
from .report import Remark

SOURCE_INDEX = "source_index"


@dataclass(frozen=True)
class Record:
    """
    One image as it lies in the source.

    Args:
        source_index: its number in the source, from 0; the source's own column `source_index`, if there is one.
        content: the bytes of the file, or None if only its path is known.
        path: the file's path or name, if there is one.
        label: what the label column says, unchecked.
    """

    source_index: int
    content: bytes | None
    path: str | None
    label: Any = None

    def read(self) -> bytes:
        """The bytes of the file; OSError if they cannot be had."""
        if self.content is not None:
            return self.content
        if self.path is None:
            return b""
        if "://" in self.path:
            import fsspec

            with fsspec.open(self.path, "rb") as file:
                return file.read()
        return Path(self.path).read_bytes()


@dataclass(frozen=True)
class Chunk:
    """
    Neighbouring images of the source on their way to a worker.

    Args:
        shard: number of the shard that they belong to.
        records: the images.
        is_last_of_shard, is_last_of_source: whether more follow.
    """

    shard: int
    records: list[Record]
    is_last_of_shard: bool
    is_last_of_source: bool


@dataclass
class ConvertedChunk:
    """
    What a worker made of a chunk.

    Args:
        columns: name -> one value a row.
        skipped, converted: images that are left out, and images with a remark.
    """

    shard: int
    num_images: int
    is_last_of_source: bool
    columns: dict[str, list]
    skipped: list[Remark] = field(default_factory=list)
    converted: list[Remark] = field(default_factory=list)


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
                label = self._label(record)
                image, remark = self.prepare_image(record)
            except UnusableImage as error:
                result.skipped.append(Remark(record.source_index, record.path, str(error)))
                continue
            if remark is not None:
                result.converted.append(Remark(record.source_index, record.path, remark))
            usable.append((record, label, image))
        result.columns = self.columns_of(usable)
        return result

    def prepare_image(self, record: Record) -> tuple[Any, str | None]:
        """What one image becomes, and a remark or None. Raises UnusableImage."""
        raise NotImplementedError

    def columns_of(self, usable: list[tuple[Record, int | None, Any]]) -> dict[str, list]:
        """The rows of a chunk, from records, labels and prepared images."""
        raise NotImplementedError

    def _label(self, record: Record) -> int | None:
        if not self.has_labels:
            return None
        try:
            return checked_label(record.label, self.label_names)
        except ValueError as error:
            raise UnusableImage(str(error)) from error


def checked_label(value: Any, names: list[str] | None) -> int:
    """
    A label as a number.

    Raises:
        ValueError: no label, not a whole number, or outside of the named classes.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"the label is {value!r}, which is not a number" if value is not None else "it has no label")
    if names is not None and not 0 <= value < len(names):
        raise ValueError(f"the label is {value}, which is not in [0, {len(names)})")
    return value


def decode_record(record: Record, decoding: Decoding) -> tuple[PILImage.Image, str | None]:
    """Reads and decodes; UnusableImage covers files that cannot be read."""
    try:
        content = record.read()
    except OSError as error:
        raise UnusableImage(f"the file cannot be read ({error})") from error
    return decoding(content)


__all__ = ["SOURCE_INDEX", "Chunk", "ChunkConverter", "ConvertedChunk", "Record", "checked_label", "decode_record"]
