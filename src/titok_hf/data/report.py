"""What happened to the images of a run: those that were left out and those that were unusual, by number and name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Remark:
    """
    A word about one image.

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
    """

    num_images: int = 0
    num_rows: int = 0
    num_bytes: int = 0
    skipped: list[Remark] = field(default_factory=list)
    converted: list[Remark] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]]) -> Report:
        """Adds up the records of shards, in their order."""
        report = cls()
        for record in records:
            report.num_images += record["num_images"]
            report.num_rows += record["num_rows"]
            report.num_bytes += record["num_bytes"]
            report.skipped += [Remark(**remark) for remark in record["skipped"]]
            report.converted += [Remark(**remark) for remark in record["converted"]]
        return report

    @classmethod
    def read(cls, path: Path) -> Report:
        """Reads a file that holds the JSON of `as_dict`."""
        return cls.of([json.loads(path.read_bytes())])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, counts first, for a JSON file."""
        counts = {"num_skipped": len(self.skipped), "num_converted": len(self.converted)}
        return counts | asdict(self)


__all__ = ["Remark", "Report"]
