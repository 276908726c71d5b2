"""What happened to the images of a run: which were left out and which were unusual, by number and name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImageReport:
    """An image by its number in the source, from 0, and its name; why it was left out, or what is unusual."""

    source_index: int
    file: str | None
    reason: str

    def __str__(self) -> str:
        name = f" ({self.file})" if self.file else ""
        return f"image {self.source_index}{name}: {self.reason}"

    def below(self, folder: Path | None) -> ImageReport:
        """The same with a path relative to the source, or the name alone if the file is not in the source."""
        if self.file is None or not Path(self.file).is_absolute():
            return self
        path = Path(self.file)
        name = path.relative_to(folder).as_posix() if folder and path.is_relative_to(folder) else path.name
        return replace(self, file=name, reason=self.reason.replace(self.file, name))


@dataclass(frozen=True)
class Unused:
    """A part of the source that was not read, by its path in the source ("*.txt" for all files of a suffix)."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Report:
    """
    What happened in a whole split, in the part of it that one process made, or in a chunk.

    Args:
        num_images: images of the source that were read.
        num_rows: rows that were written, one for each view of an image.
        num_bytes: size of the Parquet files.
        skipped: images that were left out.
        converted: images that are in the data set although their mode is unusual (CMYK, 16 bits).
        num_transparent: images with transparent pixels, which got the background colour.
        unused: parts of the source that were not read: images outside of splits and classes, other files.
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

    def add(self, other: Report) -> None:
        """Adds the counts and the lists of another report."""
        for name in ("num_images", "num_rows", "num_bytes", "skipped", "converted", "num_transparent", "unused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.no_labels = self.no_labels or other.no_labels

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]]) -> Report:
        """Adds up the records of shards, in their order."""
        report = cls()
        for record in records:
            known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
            for name in ("skipped", "converted"):
                known[name] = [ImageReport(**image) for image in known[name]]
            known["unused"] = [Unused(**unused) for unused in known.get("unused", [])]
            report.add(cls(**known))
        return report

    @classmethod
    def read(cls, path: Path) -> Report:
        """Reads a file that holds the JSON of `as_dict`."""
        return cls.of([json.loads(path.read_bytes())])

    def below(self, folder: Path | None) -> Report:
        """The same with paths relative to a folder, so that the folders of this machine are not published."""
        skipped, converted = ([image.below(folder) for image in images] for images in (self.skipped, self.converted))
        return replace(self, skipped=skipped, converted=converted)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, counts first, for a JSON file."""
        counts = {f"num_{name}": len(getattr(self, name)) for name in ("skipped", "converted", "unused")}
        return counts | asdict(self)
