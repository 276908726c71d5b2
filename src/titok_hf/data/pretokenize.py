"""Makes a data set of codes of any data set of images, so that a generator trains without the tokenizer."""

import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset, Value

from .assembly import SplitMaker
from .cards import CardText, library_versions
from .crops import PretokenizeSettings, ViewConverter, ViewCutter
from .encoders import ImageEncoder
from .records import ConvertedChunk
from .report import Report
from .shards import ShardFolder

_ROW_GROUP_SIZE = 10_000


def pretokenize(
    source: str | os.PathLike | Dataset | IterableDataset,
    output: str | os.PathLike,
    encoder: ImageEncoder,
    settings: PretokenizeSettings | None = None,
    split: str = "train",
    **options: Any,
) -> Report:
    """
    Encodes one split of a data set: one row per view, with the columns `codes` (or `latents`), `label`, `view` and
    `source_index`.

    Resuming, errors and `options` are those of `prepare`. Under `accelerate launch` or `torchrun` each process makes
    its part. The rows do not depend on the number of workers or processes: a batch has the same images in any process,
    and a CPU encodes it with one thread.

    Args:
        encoder: the tokenizer and how it computes. On a CPU each worker encodes with its own copy; on a GPU the
            workers decode and this process encodes.
        settings: which crops of an image are encoded.

    Returns:
        the report of the whole split, or of this part while others are missing.
    """
    settings = settings or PretokenizeSettings()
    maker = SplitMaker(source, output, split=split, **options)
    if settings.enlarge is None:
        settings = replace(settings, enlarge=encoder.enlarges)
    description = {"kind": encoder.column} | maker.description() | encoder.identity()
    description |= {"image_size": encoder.size} | asdict(settings)
    description |= {"versions": library_versions("pillow", "pyarrow", "torch", "transformers")}
    features = maker.features(**{encoder.column: encoder.feature(), "view": Value("int16")})
    shards = ShardFolder(
        maker.output, maker.options.split, description, features, settings.shard_size, _ROW_GROUP_SIZE, "zstd"
    )
    views = ViewConverter(maker.images.label_names, maker.images.has_labels, ViewCutter(settings, encoder.size))
    chunk_size = max(1, encoder.batch_size // settings.num_views)
    card = _card(encoder, description["model"])
    if torch.device(encoder.device).type == "cpu":
        return maker.make(shards, EncodingConverter(**vars(views), encoder=encoder), chunk_size, card)
    return maker.make(shards, views, chunk_size, card, finish=partial(encode_chunk, encoder=encoder))


@dataclass(frozen=True)
class EncodingConverter(ViewConverter):
    """Crops images to their views and encodes them, in a worker."""

    encoder: ImageEncoder

    def finished(self, columns: dict[str, list]) -> dict[str, list]:
        return encode_columns(columns, self.encoder)


def encode_chunk(chunk: ConvertedChunk, encoder: ImageEncoder) -> ConvertedChunk:
    """Encodes the views from a worker, in the process that has the GPU."""
    return replace(chunk, columns=encode_columns(chunk.columns, encoder))


def encode_columns(columns: dict[str, list], encoder: ImageEncoder) -> dict[str, list]:
    """Replaces pixels by codes or latents."""
    if not columns:  # no image of the chunk can be used
        return {}
    encoded = encoder(np.stack(columns.pop("pixels")))
    return {encoder.column: encoded.tolist() if encoder.is_continuous else list(encoded)} | columns


def _card(encoder: ImageEncoder, model: str) -> CardText:
    column = encoder.column
    what = "means of the latent distribution" if encoder.is_continuous else "indices into its codebook"
    return CardText(
        title=f"Tokens of {model}",
        introduction=f"`{column}`: the tokens that {model} gives each image, {what}. `view` counts the crops of an "
        f"image, `source_index` is its number in the source. `decode({column}={column})` of that model gives the "
        "images.",
        code=f'.with_format("torch")\n{column} = dataset["{{split}}"][:4]["{column}"]',
    )
