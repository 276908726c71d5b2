"""Makes crops in Parquet shards of any data set of images, for `load_dataset` and for training."""

import os
from dataclasses import asdict
from typing import Any

from datasets import Dataset, Image, IterableDataset

from .assembly import SplitMaker
from .cards import CardText, library_versions
from .crops import ImageConverter, PrepareSettings
from .report import Report
from .shards import ShardFolder

# Small, because readers that shuffle read whole row groups.
_ROW_GROUP_SIZE = 100
_CHUNK_SIZE = 16


def prepare(
    source: str | os.PathLike | Dataset | IterableDataset,
    output: str | os.PathLike,
    settings: PrepareSettings | None = None,
    split: str = "train",
    **options: Any,
) -> Report:
    """
    Prepares one split of a data set.

    After an interruption, the same call continues where the run stopped. The files do not depend on the number of
    workers or parts.

    Args:
        source: what `open_dataset` reads, or an open data set.
        output: folder of the new data set. More calls can add more splits to it.
        settings: how images are cropped and stored.
        split: name of the split, in the source and in the new data set.
        options: the other fields of [`SplitOptions`]: `config_name`, `image_column`, `label_column`, `limit`,
            `streaming`, `workers`, `part`, `on_error` and `progress`.

    Returns:
        the report of the whole split, or of this part while others are missing.

    Raises:
        ValueError: no such column, an empty source, a folder that was begun with other settings or whose source has
            changed since, or, with `on_error="stop"`, an unusable image.
        OSError: the folder is in use or cannot be written, the disk is full, or a worker died.
    """
    settings = settings or PrepareSettings()
    maker = SplitMaker(source, output, split=split, **options)
    description = {"kind": "images"} | maker.description() | asdict(settings)
    description |= {"versions": library_versions("pillow", "pyarrow")}
    features = maker.features(image=Image())
    shards = ShardFolder(
        maker.output, maker.options.split, description, features, settings.shard_size, _ROW_GROUP_SIZE, "none"
    )
    convert = ImageConverter(maker.images.label_names, maker.images.has_labels, settings)
    shape = "resized, not cropped" if settings.crop == "none" else "cropped to squares"
    card = CardText(
        title=f"Images at {settings.image_size} pixels",
        introduction=f"RGB images, shorter edge {settings.image_size} pixels, {shape}. `source_index` is the number "
        "of the image in the source.",
        code='\nimage = dataset["{split}"][0]["image"]',
    )
    return maker.make(shards, convert, _CHUNK_SIZE, card)
