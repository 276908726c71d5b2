"""
Makes one split of a data set: what `prepare` and `pretokenize` share.

One process reads the source in order and divides it into chunks; workers turn each chunk into rows; the same process
writes the rows into shards, in order. Neither the chunks nor the result depend on the number of workers.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel, Dataset, Features, IterableDataset, Value

from ..checkpoints.atomic_files import write_atomically
from .cards import CardText, write_card
from .columns import NO_LABELS
from .opening import open_source
from .parallel import available_processors, ordered_map
from .records import SOURCE_INDEX, Chunk, ChunkConverter, ConvertedChunk
from .report import Report
from .shards import Part, ShardFolder
from .sources import Source

OnError = Literal["skip", "stop"]


@dataclass(frozen=True)
class SplitOptions:
    """
    Which split of a source is read, and how the work is done.

    Args:
        split, config_name, image_column, label_column, limit, streaming: see `open_dataset` and `Source`.
        workers: processes that decode and encode; 0 computes in this one. By default one per processor. As always with
            processes, a script calls this below `if __name__ == "__main__":`.
        part: rank and world size, for several machines that share a folder: each makes every world_size-th shard, and
            the last to finish completes the data set. By default those of `accelerate launch` or `torchrun`.
        on_error: "skip" lists unusable images in the report, "stop" raises an error for the first one.
        progress: called with the number of images since the last call; includes those of shards that exist already.
    """

    split: str = "train"
    config_name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    limit: int | None = None
    streaming: bool = False
    workers: int | None = None
    part: Part | None = None
    on_error: OnError = "skip"
    progress: Callable[[int], object] = lambda num_images: None


class SplitMaker:
    """
    Makes one split of a data set in a folder of shards.

    Args:
        source: what `open_dataset` reads, or an open data set.
        output: folder of the new data set.
        options: the fields of [`SplitOptions`].

    Attributes:
        images: the source.
    """

    def __init__(
        self, source: str | os.PathLike | Dataset | IterableDataset, output: str | os.PathLike, **options: Any
    ) -> None:
        self.options = SplitOptions(**options)
        self.output = Path(output)
        split, label_column, limit = self.options.split, self.options.label_column, self.options.limit
        self.opened = open_source(source, split, self.options.config_name, self.options.streaming, label_column)
        image_column, single_class = self.options.image_column, self.opened.single_class
        self.images = Source(self.opened.dataset, image_column, label_column, limit, single_class)

    def features(self, **columns: Any) -> Features:
        """The columns of the new data set: the given ones, `label` if there are labels, and `source_index`."""
        names = self.images.label_names
        label = Value("int64") if names is None else ClassLabel(names=names)
        labels = {"label": label} if self.images.has_labels else {}
        first, *others = columns.items()
        return Features(dict([first]) | labels | dict(others) | {SOURCE_INDEX: Value("int64")})

    def description(self) -> dict[str, Any]:
        """The source as plain values: part of the settings that every run in a folder must repeat."""
        options, images = self.options, self.images
        return {
            "source": self.opened.name,
            "listing": self.opened.digest,
            "config_name": options.config_name,
            "split": options.split,
            "limit": options.limit,
            "num_images": images.num_images,
            "image_column": images.image_column,
            "label_column": images.label_column,
            "label_names": images.label_names,
        }

    def make(
        self,
        shards: ShardFolder,
        convert: ChunkConverter,
        chunk_size: int,
        card: CardText,
        finish: Callable[[ConvertedChunk], ConvertedChunk] = lambda result: result,
    ) -> Report:
        """
        Makes all shards of this part that are not complete, and the report and the card once all parts are complete.

        Args:
            convert: what workers do to a chunk.
            chunk_size: images in a chunk; the result of a model that computes whole chunks depends on it.
            finish: a last step in this process, such as a model on its GPU.

        Returns:
            the report of the whole split, or of this part while others are missing.

        Raises:
            ValueError: with `on_error="stop"`, for the first unusable image; or if the source is empty.
            OSError: a file cannot be written, or a worker died.
        """
        part = self.options.part or Part.from_environment()
        workers = available_processors() if self.options.workers is None else self.options.workers
        whole: dict[int, dict[str, Any]] = {}
        with shards.locked(part):
            chunks = self._chunks(shards, chunk_size, part, whole)
            results = map(finish, ordered_map(convert, chunks, workers))
            for index, group in groupby(results, key=lambda result: result.shard):
                whole[index] = self._write_shard(shards, index, group)
            if not whole and part.rank == 0:
                raise ValueError("The source has no images. Check the name of the split and the limit.")
            complete = self._write_report(shards)
            if complete is not None:
                paths = sorted(self.output.glob("report-*.json"))
                reports = {path.stem.partition("-")[2]: Report.read(path) for path in paths}
                write_card(self.output, card, Features.from_arrow_schema(shards.schema), reports, shards.settings)
            return complete or Report.of(whole[index] for index in sorted(whole))

    def _chunks(
        self, shards: ShardFolder, chunk_size: int, part: Part, whole: dict[int, dict[str, Any]]
    ) -> Iterator[Chunk]:
        """The images of the missing shards of a part; adds the records of complete shards to `whole`."""
        for index in count(part.rank, part.world_size):
            record = shards.whole_record(index)
            if record is not None:
                whole[index] = record
                self.options.progress(record["num_images"])
                if record["is_last"]:
                    return
                continue
            first, stop = index * shards.shard_size, (index + 1) * shards.shard_size
            if not self.images.reaches(first):
                return
            for start in range(first, stop, chunk_size):
                records = list(self.images.read(start, min(start + chunk_size, stop)))
                ends_source = not self.images.reaches(start + len(records))
                yield Chunk(index, records, ends_source)
                if ends_source:
                    return

    def _write_shard(self, shards: ShardFolder, index: int, results: Iterable[ConvertedChunk]) -> dict[str, Any]:
        """Writes a shard from its chunks; returns its record."""
        report, is_last = Report(), False

        def columns() -> Iterator[dict[str, list]]:
            nonlocal is_last
            for result in results:
                if result.report.skipped and self.options.on_error == "stop":
                    raise ValueError(
                        f"Cannot use {result.report.skipped[0]}. Finished shards are kept; run again with "
                        "--on-error skip to leave such images out."
                    )
                report.add(result.report)
                is_last = result.is_last_of_source
                yield result.columns
                self.options.progress(result.report.num_images)

        facts = shards.write(index, columns())
        record = asdict(report) | facts | {"is_last": is_last}
        shards.commit(index, record)
        return record

    def _write_report(self, shards: ShardFolder) -> Report | None:
        """Writes `report-<split>.json` with the report of a complete split; None if shards are missing."""
        records = shards.records()
        if records is None:
            return None
        report = Report.of(records).below(self.opened.folder)
        report.unused = self.opened.unused
        if not self.images.has_labels and self.options.label_column != NO_LABELS:
            report.no_labels = self.opened.no_labels or "the source has no column of classes"
        settings = {name: value for name, value in shards.settings.items() if name != "num_images"}
        content = json.dumps(report.as_dict() | {"settings": settings}, indent=1, ensure_ascii=False)
        write_atomically(shards.folder / f"report-{shards.split}.json", content.encode())
        shards.clean()
        return report
