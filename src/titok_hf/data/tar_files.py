"""Webdataset shards (tar files whose members share a name) as a data set that no single member can stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from datasets import Dataset, IterableDataset
from datasets.packaged_modules.webdataset.webdataset import WebDataset


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")


class LenientWebDataset(WebDataset):
    """
    The builder of `datasets` ends at the first member that it cannot decode; this one decodes nothing but texts. So
    labels (`.cls`) come as bytes, and `Source` checks each.
    """

    DECODERS = {"txt": _text, "text": _text, "transcript": _text}

    @classmethod
    def _get_pipeline_from_tar(cls, tar_path: str, tar_iterator: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """The examples of a file. The builder wants the first ones to have the same members; what lacks is None."""
        examples = super()._get_pipeline_from_tar(tar_path, tar_iterator)
        first = list(islice(examples, cls.NUM_EXAMPLES_FOR_FEATURES_INFERENCE))
        names = dict.fromkeys(name for example in first for name in example)
        for example in first:
            yield {name: example.get(name) for name in names}
        yield from examples


def open_tar_files(files: str | list[str], split: str, streaming: bool) -> Dataset | IterableDataset:
    """Tar files by path, pattern or URL as the split of that name; columns are named by the suffixes of members."""
    builder = LenientWebDataset(dataset_name="lenient_webdataset", data_files={split: files})
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


__all__ = ["LenientWebDataset", "open_tar_files"]
