"""What happened to the images of a run: those that were left out and those that were unusual, by number and name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImageReport:
    """
    Why one image was left out, or what was unusual about it.

    Args:
        source_index: its number in the source, from 0.
        file: its name, if the source has names.
        reason: why it was left out, or what was unusual.
    """

    source_index: int
    file: str | None
    reason: str

    def __str__(self) -> str:
        name = f" ({self.file})" if self.file else ""
        return f"image {self.source_index}{name}: {self.reason}"

    def below(self, folder: Path | None) -> ImageReport:
        """The same without the folders above the source, or above the file where it lies elsewhere."""
        if self.file is None or not Path(self.file).is_absolute():
            return self
        path = Path(self.file)
        name = path.relative_to(folder).as_posix() if folder and path.is_relative_to(folder) else path.name
        return replace(self, file=name, reason=self.reason.replace(self.file, name))


@dataclass(frozen=True)
class Unused:
    """
    Something that lies in the source and was not read.

    Args:
        path: relative to the source; "*.txt" for all files of a suffix.
        reason: why.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Report:
    """
    The sum of a finished split, or of the part of it that one process made.

    Args:
        num_images: images of the source that were looked at.
        num_rows: rows that were written; more than images where each image has several views.
        num_bytes: size of the Parquet files.
        skipped: images that were left out.
        converted: images that are in the data set although their mode is unusual (CMYK, 16 bits).
        num_transparent: images with transparent pixels, which were laid on the background.
        unused: what lies in the source and was not read: images that no split or class holds, other files.
        no_labels: why there are no labels; None if there are.
    """

    num_images: int = 0
    num_rows: int = 0
    num_bytes: int = 0
    skipped: list[ImageReport] = field(default_factory=list)
    converted: list[ImageReport] = field(default_factory=list)
    num_transparent: int = 0
    unused: list[Unused] = field(default_factory=list)
    no_labels: str | None = None

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]]) -> Report:
        """Adds up the records of shards, in their order."""
        report = cls()
        for record in records:
            report.num_images += record["num_images"]
            report.num_rows += record["num_rows"]
            report.num_bytes += record["num_bytes"]
            report.skipped += [ImageReport(**image) for image in record["skipped"]]
            report.converted += [ImageReport(**image) for image in record["converted"]]
            report.num_transparent += record.get("num_transparent", 0)  # older records have none of these
            report.unused += [Unused(**unused) for unused in record.get("unused", [])]
            report.no_labels = report.no_labels or record.get("no_labels")
        return report

    @classmethod
    def read(cls, path: Path) -> Report:
        """Reads a file that holds the JSON of `as_dict`."""
        return cls.of([json.loads(path.read_bytes())])

    def below(self, folder: Path | None) -> Report:
        """The same with the names of images seen from a folder: where it lies on this machine is not published."""
        skipped, converted = ([image.below(folder) for image in images] for images in (self.skipped, self.converted))
        return replace(self, skipped=skipped, converted=converted)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, counts first, for a JSON file."""
        lists: dict[str, list] = {
            "num_skipped": self.skipped,
            "num_converted": self.converted,
            "num_unused": self.unused,
        }
        return {name: len(values) for name, values in lists.items()} | asdict(self)


__all__ = ["ImageReport", "Report", "Unused"]
