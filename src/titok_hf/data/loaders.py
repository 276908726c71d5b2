"""Batches for training, from prepared images or from codes: shuffled, augmented, shared by processes, and resumable.

Every random choice is a function of the seed, the epoch and the number of the example. So the place in the order is
the whole state of a loader: a resumed run sees what it would have seen, with any number of workers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from .augmentation import Augmentation
from .parallel import ordered_map
from .records import Record
from .shards import Part
from .sources import Source

_SHUFFLE_BUFFER = 10_000


class ResumableLoader:
    """
    Endless batches, epoch after epoch, with a place that can be saved. Use [`ImageLoader`] or [`CodeLoader`].

    Args:
        batch_size: examples in a batch of this process. An incomplete batch at the end of an epoch is dropped.
        part: this process among all; by default what `accelerate launch` or `torchrun` says.
        seed: of the order and of the augmentation; the same on all processes.
        shuffle: whether each epoch has its own order; a stream shuffles within a buffer.
    """

    def __init__(self, batch_size: int, part: Part | None, seed: int, shuffle: bool) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it has to be at least 1.")
        self.batch_size = batch_size
        self.part = part or Part.from_environment()
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches from the saved place on, without end."""
        while True:
            is_empty = self.position == 0
            for batch in self._batches(self.epoch, self.position):
                is_empty = False
                self.position += 1
                yield batch
            if is_empty:
                raise ValueError(
                    f"A process has fewer than {self.batch_size} examples in an epoch, so there is no whole batch. "
                    "Use a smaller batch_size, fewer processes or more data."
                )
            self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The place: epoch, and batches of it that were handed out."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a place that `state_dict` gave; for iterators that are made from now on."""
        self.epoch, self.position = state["epoch"], state["position"]

    def _batches(self, epoch: int, position: int) -> Iterator[dict[str, torch.Tensor]]:
        """The whole batches of an epoch, without the first `position` ones."""
        raise NotImplementedError

    def _order(self, num_examples: int, epoch: int, position: int) -> Iterator[list[int]]:
        """Numbers of the examples of each batch of this process; every process gets equally many."""
        order = np.arange(num_examples)
        if self.shuffle:
            order = np.random.Generator(np.random.Philox([self.seed, epoch])).permutation(num_examples)
        own = order[: num_examples - num_examples % self.part.count][self.part.index :: self.part.count]
        for start in range(position * self.batch_size, len(own) - self.batch_size + 1, self.batch_size):
            yield own[start : start + self.batch_size].tolist()


class ImageLoader(ResumableLoader):
    """
    Batches `{"pixels": uint8 (batch, 3, image_size, image_size), "label": int64 (batch,)}` from images.

    The augmentation is the paper's: shorter edge to `image_size`, a random square, mirrored with probability 1/2.

    Args:
        dataset: with a column of images, map-style or streaming, such as `prepare` makes with `crop="none"`.
        image_size: side of the squares, in pixels.
        random_crop, flip: the two halves of the augmentation; without the first, the square is the centre.
        workers: processes that decode; 0 decodes in this one.
        batch_size, part, seed, shuffle: see [`ResumableLoader`].

    Raises:
        ValueError: no column of images; while iterating, an image that cannot be decoded.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        image_size: int,
        batch_size: int,
        random_crop: bool = True,
        flip: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 0,
        part: Part | None = None,
    ) -> None:
        super().__init__(batch_size, part, seed, shuffle)
        self.dataset = dataset
        self.workers = workers
        self.augment = Augmentation(image_size, random_crop, flip, seed)

    def _batches(self, epoch: int, position: int) -> Iterator[dict[str, torch.Tensor]]:
        tasks = ((epoch, records) for records in self._records(epoch, position))
        for pixels, labels in ordered_map(self.augment, tasks, self.workers):
            batch = {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()}
            if labels[0] is not None:
                batch["label"] = torch.tensor(labels)
            yield batch

    def _records(self, epoch: int, position: int) -> Iterator[list[Record]]:
        if isinstance(self.dataset, Dataset):
            source = Source(self.dataset)
            for numbers in self._order(len(self.dataset), epoch, position):
                yield source.take(numbers)
            return
        source = Source(_epoch_of_stream(self.dataset, self.part, self.seed if self.shuffle else None, epoch))
        for start in itertools.count(position * self.batch_size, self.batch_size):
            records = list(source.read(start, start + self.batch_size))
            if len(records) < self.batch_size:
                return
            yield records


class CodeLoader(ResumableLoader):
    """
    Batches `{"codes": int64 (batch, num_latent_tokens), "label": int64 (batch,)}` from what `pretokenize` makes; for a
    KL model `{"latents": float32 (batch, num_latent_tokens, codebook_dim), ...}`.

    An epoch takes one view of each image, chosen anew each time.

    Args:
        dataset: map-style or streaming; the views of an image are neighbouring rows, as `pretokenize` writes them.
        num_views: views of each image.
        batch_size, part, seed, shuffle: see [`ResumableLoader`].

    Raises:
        ValueError: rows that are not in groups of `num_views`.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        batch_size: int,
        num_views: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        part: Part | None = None,
    ) -> None:
        super().__init__(batch_size, part, seed, shuffle)
        self.num_views = num_views
        self.column = "latents" if "latents" in dataset.features else "codes"
        columns = [name for name in (self.column, "label", "view", "source_index") if name in dataset.features]
        self.dataset = dataset.select_columns(columns)
        if isinstance(dataset, Dataset):
            self._check_views(np.asarray(dataset.with_format("numpy")["view"][:]))

    def _batches(self, epoch: int, position: int) -> Iterator[dict[str, torch.Tensor]]:
        if isinstance(self.dataset, Dataset):
            rows = self.dataset.with_format("numpy")
            for images in self._order(len(rows) // self.num_views, epoch, position):
                yield self._batch(rows[[image * self.num_views + self._view(image, epoch) for image in images]])
            return
        examples = self._chosen_views(epoch)
        for start in itertools.count():
            batch = list(itertools.islice(examples, self.batch_size))
            if len(batch) < self.batch_size:
                return
            if start >= position:
                yield self._batch({name: [row[name] for row in batch] for name in batch[0]})

    def _chosen_views(self, epoch: int) -> Iterator[dict[str, Any]]:
        """One row of each image of a stream, which shuffles single rows: every view but the chosen one is left out."""
        for row in _epoch_of_stream(self.dataset, self.part, self.seed if self.shuffle else None, epoch):
            if row["view"] == self._view(row["source_index"], epoch):
                yield row

    def _view(self, image: int, epoch: int) -> int:
        return int(random.Random(f"{self.seed}:{epoch}:{image}").random() * self.num_views)

    def _batch(self, rows: dict[str, Any]) -> dict[str, torch.Tensor]:
        dtype = np.float32 if self.column == "latents" else np.int64
        batch = {self.column: torch.from_numpy(np.asarray(rows[self.column]).astype(dtype))}
        if "label" in rows:
            batch["label"] = torch.from_numpy(np.asarray(rows["label"], dtype=np.int64))
        return batch

    def _check_views(self, views: np.ndarray) -> None:
        expected = np.tile(np.arange(self.num_views), len(views) // self.num_views)
        if len(views) != len(expected) or (views != expected).any():
            raise ValueError(
                f"The rows are not {self.num_views} views of each image in order; the column `view` goes up to "
                f"{views.max(initial=0)}. Pass the number of views that the data set was made with as num_views."
            )


def _epoch_of_stream(dataset: IterableDataset, part: Part, seed: int | None, epoch: int) -> IterableDataset:
    """The share of one process of a stream, shuffled for one epoch."""
    if seed is not None:
        # `set_epoch` would do the same, but what is built upon a stream does not inherit its epoch.
        dataset = dataset.shuffle(generator=np.random.default_rng([seed, epoch]), buffer_size=_SHUFFLE_BUFFER)
    return split_dataset_by_node(dataset, rank=part.index, world_size=part.count)


__all__ = ["CodeLoader", "ImageLoader", "ResumableLoader"]
