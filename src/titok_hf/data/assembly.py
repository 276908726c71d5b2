"""The way from a source to a folder of shards, which preparation and pretokenisation share.

One process reads the source in order and hands out chunks; workers turn each chunk into rows; the same process writes
the rows into shards, in order. Chunks are cut at fixed places, so the result knows nothing of the number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import count, groupby
from pathlib import Path
from typing import Any, Literal

from ..checkpoints.atomic_files import write_atomically
from .parallel import ordered_map
from .records import Chunk, ChunkConverter, ConvertedChunk
from .report import Remark, Report, Unused
from .shards import Part, ShardFolder
from .sources import Source

OnError = Literal["skip", "stop"]


def make_shards(
    source: Source,
    shards: ShardFolder,
    convert: ChunkConverter,
    chunk_size: int,
    workers: int,
    part: Part,
    on_error: OnError = "skip",
    finish: Callable[[ConvertedChunk], ConvertedChunk] = lambda result: result,
    progress: Callable[[int], object] = lambda num_images: None,
) -> Report:
    """
    Makes all shards of this part that are not whole yet. The folder has to be locked.

    Args:
        chunk_size: images in a chunk; where a model computes whole chunks, its result depends on it.
        finish: a last step that only this process can take, such as a model on its GPU.
        progress: called with the number of images that are done since the last call, those of whole shards included.

    Returns:
        the sum of this part's shards.

    Raises:
        ValueError: with `on_error="stop"`, for the first unusable image; or if the source is empty.
        OSError: a file cannot be written, or a worker died.
    """
    whole: dict[int, dict[str, Any]] = {}

    def found_whole(index: int, record: dict[str, Any]) -> None:
        whole[index] = record
        progress(record["num_images"])

    chunks = _chunks(source, shards, chunk_size, part, found_whole)
    results = map(finish, ordered_map(convert, chunks, workers))
    for index, group in groupby(results, key=lambda result: result.shard):
        whole[index] = _write_shard(shards, index, group, on_error, progress)
    if not whole and part.index == 0:
        raise ValueError("The source has no images. Check the name of the split and the limit.")
    return Report.of(whole[index] for index in sorted(whole))


def write_report(
    shards: ShardFolder, unused: list[Unused], no_labels: str | None, folder: Path | None
) -> Report | None:
    """
    Sums up a complete split in `report-<split>.json`, with the settings that made it, and removes what runs left.

    Args:
        unused, no_labels: as in `Report`.
        folder: of the source, if it is one here.

    Returns:
        the report; None if shards are missing.
    """
    records = shards.records()
    if records is None:
        return None
    report = Report.of(records).below(folder)
    report.unused, report.no_labels = unused, no_labels
    settings = {name: value for name, value in shards.settings.items() if name != "num_images"}  # streams know it late
    content = json.dumps(report.as_dict() | {"settings": settings}, indent=1, ensure_ascii=False)
    write_atomically(shards.folder / f"report-{shards.split}.json", content.encode())
    shards.clean()
    return report


def _chunks(
    source: Source,
    shards: ShardFolder,
    chunk_size: int,
    part: Part,
    found_whole: Callable[[int, dict[str, Any]], None],
) -> Iterator[Chunk]:
    """The images of the missing shards of a part."""
    for index in count(part.index, part.count):
        record = shards.whole_record(index)
        if record is not None:
            found_whole(index, record)
            if record["is_last"]:
                return
            continue
        first, stop = index * shards.shard_size, (index + 1) * shards.shard_size
        if not source.reaches(first):
            return
        for start in range(first, stop, chunk_size):
            records = list(source.read(start, min(start + chunk_size, stop)))
            ends_source = not source.reaches(start + len(records))
            ends_shard = ends_source or start + len(records) == stop
            yield Chunk(index, records, ends_shard, ends_source)
            if ends_source:
                return


def _write_shard(
    shards: ShardFolder,
    index: int,
    results: Iterable[ConvertedChunk],
    on_error: OnError,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    skipped: list[Remark] = []
    converted: list[Remark] = []
    num_transparent = 0
    num_images, is_last = 0, False

    def columns() -> Iterator[dict[str, list]]:
        nonlocal num_images, num_transparent, is_last
        for result in results:
            if result.skipped and on_error == "stop":
                raise ValueError(
                    f"Cannot use {result.skipped[0]}. Finished shards are kept; run again with --on-error skip to "
                    "leave such images out."
                )
            skipped.extend(result.skipped)
            converted.extend(result.converted)
            num_images += result.num_images
            num_transparent += result.num_transparent
            is_last = result.is_last_of_source
            yield result.columns
            progress(result.num_images)

    record = shards.write(index, columns())
    record |= {"num_images": num_images, "num_transparent": num_transparent, "is_last": is_last}
    record |= {"skipped": [asdict(remark) for remark in skipped], "converted": [asdict(r) for r in converted]}
    shards.commit(index, record)
    return record


__all__ = ["OnError", "make_shards", "write_report"]
