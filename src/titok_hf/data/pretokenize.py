"""Any data set of images -> a data set of codes, so that a generator trains without the tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, IterableDataset, Value

from .assembly import OnError, make_shards, write_report
from .cards import library_versions, write_card
from .encoders import ImageEncoder
from .opening import open_source
from .parallel import available_processors
from .prepare import describe_source, label_feature, reason_for_no_labels, split_reports
from .records import SOURCE_INDEX, ConvertedChunk, Record
from .report import Report
from .shards import Part, ShardFolder
from .sources import Source
from .views import PretokenizeSettings, ViewConverter, ViewCutter

_ROW_GROUP_SIZE = 10_000


def pretokenize(
    source: str | os.PathLike | Dataset | IterableDataset,
    output: str | os.PathLike,
    encoder: ImageEncoder,
    settings: PretokenizeSettings | None = None,
    split: str = "train",
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    workers: int | None = None,
    part: Part | None = None,
    on_error: OnError = "skip",
    progress: Callable[[int], object] = lambda num_images: None,
) -> Report:
    """
    Encodes one split of a data set: a row a view, with the columns `codes` (or `latents`), `label`, `view` and
    `source_index`.

    Resuming, parts, errors and the other arguments are those of `prepare`. Under `accelerate launch` or `torchrun`
    each process makes its part. The rows do not depend on the number of workers or processes: each batch holds the
    same images whoever computes it, and a CPU computes it with one thread.

    Args:
        encoder: the tokenizer and how it computes. On a CPU each worker computes with its own copy; on a GPU the
            workers decode and this process computes.
        settings: which squares of an image are encoded.
        workers: as for `prepare`.

    Returns:
        the report of the whole split, or of this part while others are missing.
    """
    settings = settings or PretokenizeSettings()
    part = part or Part.from_environment()
    opened = open_source(source, split, config_name, streaming, label_column)
    images = Source(opened.dataset, image_column, label_column, limit, opened.single_class)
    if settings.enlarge is None:
        settings = replace(settings, enlarge=encoder.enlarges)
    features = _features(images, encoder)
    description = {"kind": encoder.column} | describe_source(opened, images, split, config_name, limit)
    description |= encoder.identity() | {"image_size": encoder.size} | asdict(settings)
    description |= {"versions": library_versions("pillow", "pyarrow", "torch", "transformers")}
    shards = ShardFolder(Path(output), split, description, features, settings.shard_size, _ROW_GROUP_SIZE, "zstd")
    workers = available_processors() if workers is None else workers
    views = ViewConverter(images.label_names, images.has_labels, ViewCutter(settings, encoder.size))
    computes_here = torch.device(encoder.device).type != "cpu"
    convert = views if computes_here else EncodingConverter(**vars(views), encoder=encoder)
    finish = EncodeColumns(encoder) if computes_here else _as_it_is
    chunk_size = max(1, encoder.batch_size // settings.num_views)
    with shards.locked(part):
        report = make_shards(images, shards, convert, chunk_size, workers, part, on_error, finish, progress)
        complete = write_report(
            shards, opened.unused, reason_for_no_labels(opened, images, label_column), opened.folder
        )
        if complete is not None:
            _write_card(Path(output), features, description, encoder)
        return complete or report


@dataclass(frozen=True)
class EncodingConverter(ViewConverter):
    """Cuts the views and encodes them, all in a worker."""

    encoder: ImageEncoder

    def columns_of(self, usable: list[tuple[Record, int | None, list[np.ndarray]]]) -> dict[str, list]:
        return encode_columns(super().columns_of(usable), self.encoder)


@dataclass(frozen=True)
class EncodeColumns:
    """Encodes the views that workers cut, in the process that has the GPU."""

    encoder: ImageEncoder

    def __call__(self, result: ConvertedChunk) -> ConvertedChunk:
        return replace(result, columns=encode_columns(result.columns, self.encoder))


def encode_columns(columns: dict[str, list], encoder: ImageEncoder) -> dict[str, list]:
    """Puts codes or latents in the place of pixels."""
    pixels = columns.pop("pixels")
    encoded = encoder(np.stack(pixels)) if pixels else np.empty((0, 0))
    return {encoder.column: encoded.tolist() if encoder.is_continuous else list(encoded)} | columns


def _as_it_is(result: ConvertedChunk) -> ConvertedChunk:
    return result


def _features(images: Source, encoder: ImageEncoder) -> Features:
    columns: dict[str, Any] = {encoder.column: encoder.feature()}
    return Features(columns | label_feature(images) | {"view": Value("int16"), SOURCE_INDEX: Value("int64")})


def _write_card(folder: Path, features: Features, description: dict[str, Any], encoder: ImageEncoder) -> None:
    column, model = encoder.column, description["model"]
    what = "means of the latent distribution" if encoder.is_continuous else "indices into its codebook"
    introduction = (
        f"`{column}`: the tokens that {model} gives each image, {what}. `view` counts the crops of an image, "
        f"`source_index` is its number in the source. `decode({column}={column})` of that model gives the images."
    )
    facts = {name: value for name, value in description.items() if name not in ("kind", "label_names", "limit")}
    reports = split_reports(folder)
    code = f'.with_format("torch")\n{column} = dataset["{next(iter(reports))}"][:4]["{column}"]'
    write_card(folder, f"Tokens of {model}", introduction, code, features, reports, facts)


__all__ = ["EncodeColumns", "EncodingConverter", "PretokenizeSettings", "pretokenize"]
