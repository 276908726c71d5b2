"""Webdataset shards (tar files whose members share a name) as a data set that no single member can stop."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from datasets import (
    Dataset,
    DatasetInfo,
    Features,
    GeneratorBasedBuilder,
    Image,
    IterableDataset,
    SplitGenerator,
    Value,
)
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .records import ERROR
from .tar_members import Member, Sample, samples

_TEXTS = ("txt", "text", "transcript")
_IMAGES = frozenset(WebDataset.IMAGE_EXTENSIONS)

# Samples of a stream from which its columns are inferred; tar files that lie here are looked through.
_NUM_SAMPLES_OF_STREAM = 100

# More kinds of members than this come from names with dots in them, not from a data set.
_MOST_COLUMNS = 32


class TarImages(GeneratorBasedBuilder):
    """
    Tar files as rows. The column of images is named by their suffix, or "image" if there are several suffixes and one
    image in each sample; other columns are named by the suffixes of their members. Labels (`.cls`) come as bytes, and
    `Source` checks each.
    """

    DEFAULT_WRITER_BATCH_SIZE = 100

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        splits = []
        for split, names in self.config.data_files.items():
            names = [str(name) for name in names]
            paths = [str(path) for path in dl_manager.download(names)]
            known: Iterator[Sample] = chain.from_iterable(samples(path, with_content=False) for path in paths)
            if dl_manager.is_streaming:
                known = islice(known, _NUM_SAMPLES_OF_STREAM)
            image_column, columns = _columns(known, names)
            self.info.features = columns
            files = [f"{name}\n{path}" for name, path in zip(names, paths, strict=True)]
            splits.append(SplitGenerator(split, gen_kwargs={"files": files, "image_column": image_column}))
        return splits

    def _generate_examples(self, files: list[str], image_column: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for file in files:
            name, _, path = file.partition("\n")
            for sample in samples(path):
                if sample.error is not None:
                    sample.key = os.path.basename(name)
                yield number, self._row(sample, image_column)
                number += 1

    def _row(self, sample: Sample, image_column: str | None) -> dict[str, Any]:
        nothing = {"bytes": b"", "path": sample.key}
        row: dict[str, Any] = {
            name: nothing if isinstance(f, Image) else None for name, f in self.info.features.items()
        }
        row["__key__"], row[ERROR] = sample.key, sample.error
        images = [member for kind, member in sample.members.items() if _is_image(kind)]
        for kind, member in sample.members.items():
            column = image_column if image_column is not None and _is_image(kind) else kind
            if column in row:
                row[column] = _value(kind, member)
        if image_column is not None and len(images) == 1:
            row[ERROR] = images[0].error
        elif image_column is not None and images:
            row[ERROR] = f"its sample holds several images ({', '.join(image.name for image in images)})"
        return row


def open_tar_files(files: str | list[str], split: str, streaming: bool) -> Dataset | IterableDataset:
    """
    Tar files by path, pattern or URL as the split of that name.

    Raises:
        ValueError: no tar file can be read, or the names of members make no columns.
    """
    if isinstance(files, list):
        files = [file if "://" in file else glob.escape(file) for file in files]
    builder = TarImages(dataset_name="tar_images", data_files={split: files})
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _columns(known: Iterable[Sample], names: list[str]) -> tuple[str | None, Features]:
    """The name of the column of images if each sample has one, else None; and all columns."""
    kinds: Counter[str] = Counter()
    most_images, error = 0, None
    for sample in known:
        kinds.update(sample.members.keys())
        most_images = max(most_images, sum(map(_is_image, sample.members)))
        error = error or (sample.error and f"{sample.key}: {sample.error}")
    if not kinds:
        raise ValueError(f"no images are in {len(names)} tar files. {error or 'They are empty.'}")
    images = [kind for kind in kinds if _is_image(kind)]
    image_column = None
    if most_images == 1:
        image_column = images[0] if len(images) == 1 else "image"
        images = [image_column]
    others = [kind for kind, _ in kinds.most_common() if not _is_image(kind)]
    if len(images) > _MOST_COLUMNS:
        raise ValueError(
            f"the members of its samples have {len(images)} kinds of suffixes ({', '.join(images[:3])}, ...). In tar "
            "files a name ends at its first dot: rename files such as photo.1.png to photo_1.png."
        )
    features = {"__key__": Value("string"), ERROR: Value("string")} | {name: Image() for name in images}
    for kind in others[:_MOST_COLUMNS]:
        features.setdefault(kind, Value("string" if kind.rpartition(".")[2] in _TEXTS else "binary"))
    return image_column, Features(features)


def _is_image(kind: str) -> bool:
    return kind.rpartition(".")[2] in _IMAGES


def _value(kind: str, member: Member) -> Any:
    if _is_image(kind):
        return {"bytes": member.content or b"", "path": member.name}
    if kind.rpartition(".")[2] in _TEXTS and member.content is not None:
        return member.content.decode("utf-8", errors="replace")
    return member.content


__all__ = ["TarImages", "open_tar_files"]
