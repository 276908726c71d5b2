"""Checkpoints of a run: saved completely or not at all, with checksums that are verified before loading."""

import json
import logging
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError

from titok_hf.checkpoints.atomic_files import flush_to_disk, set_permissions
from titok_hf.data.loaders import ResumableLoader
from titok_hf.data.shards import sha256_of

from .processes import gather, raised_together
from .recipes import RecipeError
from .run_folder import RunFolder
from .step import SHARDED

logger = logging.getLogger(__name__)

CHECKSUMS_NAME = "checksums.json"

# Seconds after which another node must see a new file on a shared file system.
_SECONDS_TO_APPEAR = 10.0

# Parts of the errors of torch.save when a file can be written only in part.
_TORCH_CANNOT_WRITE = ("inline_container", "PytorchStreamWriter", "iostream error")


@runtime_checkable
class Gathered(Protocol):
    """
    An object whose state is spread over the processes. All such states are gathered before anything is written:
    should a process fail while it writes, no other process waits for it.
    """

    def gather(self) -> None:
        """Collects what `state_dict` then returns; runs in all processes."""


class Progress:
    """
    How far a run is: a part of its checkpoints, in accelerate's protocol.

    Args:
        loader: its state is saved for each process, since the shares of a stream differ in length.
        examples_per_step: the global batch, which a resumed run has to keep.
        best_by: the measure by which the best model is kept, and whether larger is better.
    """

    def __init__(self, loader: ResumableLoader, examples_per_step: int, best_by: tuple[str, bool]):
        self.loader, self.examples_per_step = loader, examples_per_step
        self.step = 0
        self.best_by, larger_is_better = best_by
        self.best = -math.inf if larger_is_better else math.inf
        self.loader_state = loader.state_dict()
        self.loader_states = [self.loader_state]

    def gather(self) -> None:
        """Collects the states of the loaders of all processes."""
        self.loader_states = gather(self.loader_state)

    def state_dict(self) -> dict[str, Any]:
        best = {"best": self.best, "best_by": self.best_by}
        return {"step": self.step, "loaders": self.loader_states, "examples_per_step": self.examples_per_step} | best

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("examples_per_step", self.examples_per_step) != self.examples_per_step:
            raise RecipeError(
                f"The run was saved with a global batch of {state['examples_per_step']} examples, and now it would be "
                f"{self.examples_per_step}. Keep the product of optimization.batch_size, "
                "optimization.gradient_accumulation_steps and the number of processes."
            )
        self.step = state["step"]
        if state.get("best_by", self.best_by) == self.best_by:  # values of different measures do not compare
            self.best = state["best"]
        states, part = state["loaders"], self.loader.part
        try:
            # For another number of processes any of the states will do, or the loader refuses it.
            self.loader.load_state_dict(states[part.rank if len(states) == part.world_size else 0])
        except ValueError as error:
            raise RecipeError(f"data: {error}") from error
        self.loader_state = self.loader.state_dict()


class Checkpoints:
    """
    Saves the whole state of a run, and loads the newest undamaged one.

    Args:
        folder: of the run.
        accelerator: its models, optimisers and registered objects are saved.
        ema: the averaged weights, which accelerate does not save.
        gathered: those of the registered objects that are gathered before they are saved.
        on_each_node: whether each node has a folder of its own, to which one of its processes writes.
    """

    def __init__(
        self,
        folder: RunFolder,
        accelerator: Accelerator,
        ema: EMAModel,
        gathered: Sequence[Gathered] = (),
        on_each_node: bool = False,
    ):
        self.folder, self.accelerator, self.ema, self.on_each_node = folder, accelerator, ema, on_each_node
        self.gathered = gathered
        self.is_writer = accelerator.is_local_main_process if on_each_node else accelerator.is_main_process
        self._saved_step: int | None = None

    def check_nodes(self) -> None:
        """
        Checks that all processes see the same folder, or, with a folder on each node, that each node has its own; runs
        in all processes.

        Raises:
            RecipeError: they do not.
        """
        accelerator, path = self.accelerator, self.folder.path
        if accelerator.num_processes == 1:
            return
        marker = path / f".unfinished-{gather(uuid.uuid4().hex)[0]}"  # a name that no file system has cached
        if accelerator.is_main_process:
            path.mkdir(parents=True, exist_ok=True)
            marker.touch()
        accelerator.wait_for_everyone()
        deadline = time.monotonic() + (0 if self.on_each_node else _SECONDS_TO_APPEAR)
        while not (sees := marker.exists()) and time.monotonic() < deadline:
            time.sleep(0.2)
        missing = [rank for rank, seen in enumerate(gather(sees)) if not seen]
        other_writers = [rank for rank, is_writer in enumerate(gather(self.is_writer)) if is_writer and rank > 0]
        if accelerator.is_main_process:
            marker.unlink()
            with suppress(OSError):  # it is not empty
                path.rmdir()
        if missing and not self.on_each_node:
            raise RecipeError(
                f"output_dir is {path}, and process {missing[0]} does not see there what process 0 writes. Put it on "
                "a file system that all nodes share, or set system.save_on_each_node=true."
            )
        if set(other_writers) - set(missing):
            raise RecipeError(
                f"system.save_on_each_node is true, but the nodes share {path}, and would write the same files. Set "
                "it to false."
            )

    def save(self, step: int) -> None:
        """
        Saves the state after a step, unless it is saved already; runs in all processes.

        Raises:
            OSError: it can't be written; older checkpoints are unchanged.
        """
        if step == self._saved_step:
            return
        what = f"The checkpoint of step {step}"
        for part in self.gathered:
            part.gather()
        try:
            with written_together(what, self.folder):
                self.accelerator.save_state(str(self.folder.unfinished))
                if self.is_writer or self.accelerator.distributed_type in SHARDED:
                    torch.save(self.ema.state_dict(), self.folder.unfinished / self._ema_file())
            with written_together(what, self.folder), self.folder.new_checkpoint(step, self.is_writer) as unfinished:
                if self.is_writer:
                    self.folder.write_data_record(unfinished)
                    write_checksums(unfinished)
                    set_permissions(unfinished)
                    flush_to_disk(unfinished)
        except OSError:
            if self.is_writer:
                self.folder.remove_unfinished()
            raise
        self._saved_step = step

    def resume(self) -> Path | None:
        """
        Loads the newest checkpoint that is undamaged on all nodes; runs in all processes.

        Returns:
            the checkpoint, or None if there is none.
        Raises:
            RecipeError: all checkpoints are damaged, or the newest belongs to another run.
        """
        checkpoint = self._newest_whole()
        if checkpoint is None:
            return None
        scaler = self.accelerator.scaler
        if scaler is not None and not (checkpoint / "scaler.pt").exists():
            self.accelerator.scaler = None  # saved in another precision: the scaler starts with its initial scale
        try:
            self.accelerator.load_state(str(checkpoint))
        except (RecipeError, torch.OutOfMemoryError):
            raise
        except (KeyError, RuntimeError, ValueError) as error:
            raise RecipeError(
                f"{checkpoint} does not fit this run: {shortened(error)} Go on with the version of this package that "
                "saved it, or choose another output_dir."
            ) from error
        finally:
            self.accelerator.scaler = scaler
        self.ema.load_state_dict(torch.load(checkpoint / self._ema_file(), map_location="cpu", weights_only=True))
        self.ema.to(self.accelerator.device)
        self._saved_step = self.folder.step_of(checkpoint)
        return checkpoint

    def _newest_whole(self) -> Path | None:
        """The newest checkpoint without damage; newer ones are renamed."""
        own = {path.name for path in self.folder.all_checkpoints()}
        seen = [names for names in gather(own if self.is_writer else None) if names is not None]
        found = set.union(*seen)
        damaged: list[str] = []
        for name in sorted(set.intersection(*seen), reverse=True):
            checkpoint = self.folder.checkpoints / name
            damage = next(filter(None, gather(damage_of(checkpoint) if self.is_writer else None)), None)
            if damage is not None:
                damaged.append(name)
                if self.accelerator.is_main_process:
                    logger.warning(f"The checkpoint {checkpoint} is damaged: {damage}.")
                continue
            if self.is_writer:
                for damaged_name in damaged:
                    self.folder.set_aside(self.folder.checkpoints / damaged_name)
            if damaged and self.accelerator.is_main_process:
                logger.warning(f"Falling back to {checkpoint}. The steps after it are computed again.")
            return checkpoint
        if found:
            raise RecipeError(
                f"No checkpoint in {self.folder.checkpoints} is whole on every node ({', '.join(sorted(found))}). "
                "Restore one of them, or remove the folder of the run to start again."
            )
        return None

    def _ema_file(self) -> str:
        sharded = self.accelerator.distributed_type in SHARDED
        return f"ema_{self.accelerator.process_index}.pt" if sharded else "ema.pt"


def write_checksums(checkpoint: Path) -> None:
    """Records the SHA-256 of every file of a checkpoint in the checkpoint itself."""
    checksums = {name: sha256_of(path) for name, path in _files_of(checkpoint).items()}
    (checkpoint / CHECKSUMS_NAME).write_text(json.dumps(checksums, indent=1), encoding="utf-8")


def damage_of(checkpoint: Path) -> str | None:
    """How a checkpoint differs from its checksums; None if it does not."""
    try:
        recorded = json.loads((checkpoint / CHECKSUMS_NAME).read_bytes())
        files = _files_of(checkpoint)
        for name, checksum in recorded.items():
            if name not in files:
                return f"{name} is missing"
            if sha256_of(files[name]) != checksum:
                return f"{name} has changed since it was saved"
    except (OSError, ValueError, AttributeError) as error:
        return f"it can't be read ({error})"
    return None


def _files_of(checkpoint: Path) -> dict[str, Path]:
    files = {path.relative_to(checkpoint).as_posix(): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    files.pop(CHECKSUMS_NAME, None)
    return files


@contextmanager
def written_together(what: str, folder: RunFolder) -> Iterator[None]:
    """
    A block that runs in all processes and in which some of them write to the folder of the run. If one of them cannot,
    whichever library reports it, all raise the same OSError.
    """
    with raised_together(OSError):
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in _TORCH_CANNOT_WRITE):
                raise
            newest = folder.newest_checkpoint()
            way_out = "starts from the beginning" if newest is None else f"goes on from {newest.name}"
            raise OSError(
                f"{what} could not be written to {folder.path} ({_reason(error, folder)}). Make room there; the same "
                f"command then {way_out}."
            ) from error


def shortened(error: Exception) -> str:
    """The text of an error on one line, at most 300 characters of it."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _reason(error: Exception, folder: RunFolder) -> str:
    if isinstance(error, OSError):
        return error.strerror or shortened(error)
    if isinstance(error, SafetensorError):
        return shortened(error).rpartition("I/O error: ")[2]
    # torch does not pass on the reason of the operating system.
    return f"as on a full disk: {shutil.disk_usage(folder.path).free / 1e9:.1f} GB are free"
