"""
Work on many images in chunks whose results are files, shared by processes and kept by a run that is killed.

Each chunk is computed by one process and written as a whole. The results are read in the order of the images. So
numbers are equal, to the last bit, for any number of processes and after any interruption.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titok_hf.checkpoints.atomic_files import write_atomically
from titok_hf.devices import default_device

Arrays = dict[str, np.ndarray]
Progress = Callable[[int], object]
_PLAN = "settings.json"


class Processes:
    """
    The processes of a launcher (`torchrun`, `accelerate launch`), or this one alone.

    Args:
        device: of the models; by default a GPU if there is one, each process its own.
    """

    def __init__(self, device: str | None = None) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self._state: Any = None
        if self.count > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=device == "cpu")
        local_rank = int(os.environ.get("LOCAL_RANK", self.rank)) if self.count > 1 else None
        self.device = torch.device(device or default_device(local_rank))

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self._state is not None:
            self._state.wait_for_everyone()


class ChunkFolder:
    """
    The results of chunks of images.

    Args:
        folder: where they are kept until `clear`. It has to be seen by all processes.
        plan: what the results depend on. A folder of another plan is refused.
        num_images: of all chunks together.
        chunk_size: images in a chunk, which are computed at once.
        processes: which share the chunks.
    Raises:
        ValueError: the folder belongs to another evaluation.
    """

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], num_images: int, chunk_size: int, processes: Processes
    ) -> None:
        self.folder, self.num_images, self.chunk_size, self.processes = folder, num_images, chunk_size, processes
        self._check_plan({**plan, "num_images": num_images, "batch_size": chunk_size})

    @property
    def chunks(self) -> list[range]:
        """The numbers of the images of each chunk."""
        size = self.chunk_size
        return [range(start, min(start + size, self.num_images)) for start in range(0, self.num_images, size)]

    def compute(self, name: str, work: Callable[[range], Arrays], progress: Progress = lambda count: None) -> None:
        """
        Computes the chunks of this process that are not there yet, and waits for the other processes.

        Args:
            name: of the kind of results.
            work: gives arrays for the numbers of some images.
            progress: called with the number of images that are done since the last call.
        """
        for number, images in enumerate(self.chunks):
            if number % self.processes.count != self.processes.rank:
                continue
            path = self._path(name, number)
            if not path.is_file():
                arrays = work(images)
                write_atomically(path, lambda unfinished: _save(unfinished, arrays))  # noqa: B023 - called here
            progress(len(images))
        self.processes.wait()

    def read(self, name: str) -> Iterator[Arrays]:
        """
        The arrays of all chunks, in order.

        Raises:
            OSError: a chunk is missing or damaged.
        """
        for number, images in enumerate(self.chunks):
            path = self._path(name, number)
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    yield dict(arrays)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise OSError(
                    f"{path} cannot be read ({error}), so images {images.start} to {images.stop - 1} are missing. "
                    "Delete the file if it is there and run the same command again; it goes on from here. With "
                    "several machines, all have to see this folder."
                ) from error

    def clear(self) -> None:
        """Deletes the chunks; the plan stays, so that the folder is not used for another evaluation."""
        for path in self.folder.rglob("chunk-*-*.npz"):
            path.unlink()
        for name in ("chunks-of-reference", "chunks-parquet"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"chunk-{name}-{number:06d}.npz"

    def _check_plan(self, plan: dict[str, Any]) -> None:
        path = self.folder / _PLAN
        wanted = json.loads(json.dumps(plan))
        if self.processes.rank == 0 and not path.is_file():
            write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())
        self.processes.wait()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}). Choose another folder with --output.") from error
        unlike = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        if unlike:
            differences = ", ".join(f"{name}: {found.get(name)} there, {wanted.get(name)} here" for name in unlike)
            raise ValueError(
                f"{self.folder} belongs to an evaluation with other settings ({differences}). Give the same settings "
                "to go on with it, or choose another folder with --output."
            )


def _save(path: Path, arrays: Arrays) -> None:
    np.savez(path, allow_pickle=False, **arrays)


__all__ = ["Arrays", "ChunkFolder", "Processes", "Progress"]
