"""The order of the examples of a training run: shuffled, shared by processes, with a position that can be saved.

Every random choice is a function of the seed, the epoch and the number of the example. So the position in the order is
the whole state of a loader: a resumed run gets the same batches as an uninterrupted one, with any number of workers.

The processes of a run share a map-style data set evenly, so all are at the same position. Of a stream, each process
reads its own files, which may have different lengths, so each has its own epochs and its own position.
"""

import atexit
import itertools
import logging
import random
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from .augmentation import Batch, BatchMaker
from .parallel import WORKER_ENDED, context_of_torch_workers
from .shards import Part

logger = logging.getLogger(__name__)

_SHUFFLE_BUFFER = 10_000


class ResumableLoader:
    """
    Endless batches, epoch after epoch, with a position that can be saved. Subclasses define what a batch is.

    Of a map-style data set, batch number b of all processes together is batch number b of one process with
    `part.world_size` times the batch size, and row r of that batch goes to process r modulo `part.world_size`.

    With workers, a `torch.utils.data.DataLoader` makes batches ahead in other processes. They end when the iterator is
    closed or deleted (so after an error in the loop over it, or Ctrl-C), and with this process. If there is a CUDA
    device, batches are in pinned memory, so that copying them to it does not block.

    Args:
        batch_size: examples in a batch of this process. An incomplete batch at the end of an epoch is dropped.
        part: rank and world size of this process; by default those of `accelerate launch` or `torchrun`.
        seed: of the order and of the augmentation; the same on all processes.
        shuffle: whether each epoch has its own order; a stream shuffles within a buffer.
        workers: processes that make batches; 0 makes them in this one.
        is_stream: whether the examples come from an `IterableDataset`.

    Attributes:
        epoch: of the last batch, from 0.
        num_batches: batches of that epoch so far.
        skips_broken: whether an image that cannot be used is replaced by another one of its batch.
        skipped: why images were skipped so far, with their names.
        examples_seen: examples that this process got in all epochs.
    """

    def __init__(
        self, batch_size: int, part: Part | None, seed: int, shuffle: bool, workers: int, is_stream: bool
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it has to be at least 1.")
        if workers < 0:
            raise ValueError(f"workers is {workers}; it has to be at least 0.")
        self.batch_size = batch_size
        self.part = part or Part.from_environment()
        self.seed = seed
        self.shuffle = shuffle
        self.workers = workers
        self.is_stream = is_stream
        self.epoch = 0
        self.num_batches = 0
        self.examples_seen = 0
        self.skips_broken = False
        self.skipped: set[str] = set()

    @property
    def num_examples(self) -> int | None:
        """Examples in an epoch of all processes together; None for a stream, which does not know it."""
        return None

    @property
    def global_batch_size(self) -> int:
        """Examples in a batch of all processes together."""
        return self.batch_size * self.part.world_size

    def check_global_batch(self) -> None:
        """Raises ValueError if an epoch is known to have fewer examples than all processes take at once."""
        if self.num_examples is not None and self.num_examples < self.global_batch_size:
            raise ValueError(
                f"optimization.batch_size is {self.batch_size} in each of {self.part.world_size} processes, and there "
                f"are {self.num_examples} examples to train on. Lower it, use fewer processes, or bring more data."
            )

    def __iter__(self) -> Generator[dict[str, torch.Tensor], None, None]:
        """
        Batches from the saved position on, without end.

        Raises:
            ValueError: see the subclasses; or there are fewer examples than a batch needs.
            OSError: a worker ended without an answer, for example because the system ran out of memory.
        """
        results = self._start()
        close = getattr(results, "_shutdown_workers", lambda: None)  # torch does so only when `results` is deleted
        atexit.register(close)
        unregister = atexit.unregister  # when Python exits, the name may be gone
        try:
            for position, batch, skipped in results:
                if isinstance(batch, Exception):
                    raise batch
                self.epoch, self.num_batches = position
                self.examples_seen += self.batch_size
                for reason in skipped:
                    if reason not in self.skipped:  # each image once, and not once an epoch
                        logger.warning(f"skipped: {reason}")
                        self.skipped.add(reason)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                raise OSError(WORKER_ENDED) from error
            raise
        finally:
            unregister(close)
            close()

    def state_dict(self) -> dict[str, Any]:
        """
        The position: `epoch`, and `examples`, how many of it all processes together have got; and `skipped`, if images
        were skipped.

        Any number of processes can continue from there with the same global batch. The position in a stream is that of
        one process: it adds `processes`, `process`, and `examples_of_process`, the examples that this one got in all
        epochs, which is the same number for all processes.
        """
        state: dict[str, Any] = {"epoch": self.epoch, "examples": self.num_batches * self.global_batch_size}
        if self.skipped:
            state["skipped"] = sorted(self.skipped)
        if not self.is_stream:
            return state
        own = {"processes": self.part.world_size, "process": self.part.rank, "examples_of_process": self.examples_seen}
        return state | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Goes to a position that `state_dict` returned; for iterators that are made after this call.

        If it is the position of another process of a stream, this process finds its own by reading its files from the
        start. That can take long, so a checkpoint should have the position of each process.

        Raises:
            ValueError: the position is within a batch of this loader, or the stream was shared by another number of
                processes.
        """
        if self.is_stream and state["processes"] != self.part.world_size:
            raise ValueError(
                f"The saved position is one of a stream in {state['processes']} shares, and there are now "
                f"{self.part.world_size} processes. Resume with the same number, or train without streaming."
            )
        if state["examples"] % self.global_batch_size:
            raise ValueError(
                f"The saved position lies {state['examples']} examples into an epoch, which is no multiple of "
                f"{self.global_batch_size} ({self.batch_size} x {self.part.world_size} processes). Resume with the "
                "global batch size that the run was saved with."
            )
        self.skipped = set(state.get("skipped", ()))
        self.epoch, self.num_batches = state["epoch"], state["examples"] // self.global_batch_size
        if not self.is_stream:
            return
        self.examples_seen = state["examples_of_process"]
        if state["process"] != self.part.rank:
            self.epoch, self.num_batches = self._position_after(self.examples_seen // self.batch_size)

    def _position_after(self, num_batches: int) -> tuple[int, int]:
        """The epoch, and the batches of it, after `num_batches` batches of this process from the start."""
        for epoch in itertools.count():
            found = sum(1 for _ in itertools.islice(self._tasks(epoch, 0), num_batches))
            if found == num_batches:
                return epoch, found
            self._check_epoch(found)
            num_batches -= found
        raise AssertionError("epochs do not end")

    def _start(self) -> Iterator[Any]:
        """Starts the workers, which make batches of the tasks of this process."""
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        options: dict[str, Any] = {}
        if self.workers:
            context = context_of_torch_workers("torch.utils.data", BatchMaker.__module__)
            options = {"num_workers": self.workers, "prefetch_factor": 2, "multiprocessing_context": context}
        results = iter(
            DataLoader(
                BatchMaker(self._work()),
                batch_size=None,
                sampler=self._all_tasks(),
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # else torch takes a seed for workers from the run's random state
                **options,
            )
        )
        if handler is not None and threading.current_thread() is threading.main_thread():
            # Torch would raise the error of a dead worker anywhere in the run; this way the next batch raises it.
            signal.signal(signal.SIGCHLD, handler)
        return results

    def _all_tasks(self) -> Iterator[tuple[tuple[int, int], Any]]:
        epoch, number = self.epoch, self.num_batches
        while True:
            for task in self._tasks(epoch, number):
                number += 1
                yield (epoch, number), task
            self._check_epoch(number)
            epoch, number = epoch + 1, 0

    def _check_epoch(self, num_batches: int) -> None:
        if num_batches == 0:
            raise ValueError(
                f"A process has fewer than {self.batch_size} examples in an epoch, so there is no whole batch. "
                "Use a smaller batch_size, fewer processes or more data."
            )

    def _tasks(self, epoch: int, start: int) -> Iterator[Any]:
        """The task of each batch of an epoch, from batch number `start` on."""
        raise NotImplementedError

    def _work(self) -> Callable[[Any], Batch]:
        """The picklable function with which a worker makes a batch of a task, and the reasons of skipped images."""
        raise NotImplementedError

    def _order(self, num_examples: int, epoch: int, start: int) -> Iterator[list[int]]:
        """The numbers of the examples in each batch of this process; every process gets equally many."""
        order = np.arange(num_examples)
        if self.shuffle:
            order = np.random.Generator(np.random.Philox([self.seed, epoch])).permutation(num_examples)
        rank, world_size = self.part.rank, self.part.world_size
        own = order[: num_examples - num_examples % world_size][rank::world_size]
        for first in range(start * self.batch_size, len(own) - self.batch_size + 1, self.batch_size):
            yield own[first : first + self.batch_size].tolist()

    def _share_of_stream(self, dataset: IterableDataset, epoch: int) -> IterableDataset:
        """The share of this process of a stream, shuffled for one epoch."""
        if self.shuffle:
            # `set_epoch` would do the same, but data sets derived from a stream do not inherit its epoch.
            generator = np.random.default_rng([self.seed, epoch])
            dataset = dataset.shuffle(generator=generator, buffer_size=_SHUFFLE_BUFFER)
        return split_dataset_by_node(dataset, rank=self.part.rank, world_size=self.part.world_size)

    def _chosen_view(self, image: int, epoch: int, num_views: int) -> int:
        """The view of an image in an epoch."""
        return int(random.Random(f"{self.seed}:{epoch}:{image}").random() * num_views)
