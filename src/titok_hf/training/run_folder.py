"""The folder of a run: its recipe, its entries and its checkpoints, each whole or not there."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from titok_hf.checkpoints.atomic_files import flush_names, write_atomically
from titok_hf.data.configs import HELD_OUT

from .configs import Recipe
from .recipes import RecipeError, build_recipe, new_name, read_recipe, recipe_to_yaml

# Held while a run trains; the name of a file in its folder.
_LOCK = ".lock"
# In each checkpoint: what the run learnt from.
_DATA_RECORD = "data.json"


class RunFolder:
    """
    What a run leaves behind, and what it goes on from.

    Args:
        path: the recipe's `output_dir`. It receives `recipe.yaml`, `metrics.jsonl`, `checkpoints/`, `pictures/`,
            `logs/`, `model/` and `best_model/`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.data_record: dict[str, Any] | None = None
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.unfinished = self.checkpoints / "unfinished"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Claims the folder for this process; the claim ends with the process, however it ends.

        Raises:
            RecipeError: another run trains in it at this moment.
        """
        # Imported here: the folder of a finished run is also read where nothing is trained.
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RecipeError(
                f"Another run is training in {self.path} at this moment. Wait for it, end it, or choose another "
                "output_dir."
            ) from None
        try:
            yield
        finally:
            # Removed before it is given back, so that no other run can hold a lock whose name is gone.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def check(self, recipe: Recipe) -> None:
        """
        Makes sure that the folder is empty or holds a run with this recipe.

        Raises:
            RecipeError: it belongs to something else, or to a run with another recipe; it is left as it is.
        """
        if self.recipe_file.exists():
            if self._differs(self._recipe_there(recipe), recipe):
                raise RecipeError(
                    f"{self.path} holds a run with another recipe (see {self.recipe_file}). Resume it with the same "
                    "recipe, or choose another output_dir."
                )
        # A run that was killed while it claimed its folder leaves its lock and an unfinished recipe.
        elif self.path.is_file() or any(
            not path.name.startswith((".unfinished-", _LOCK)) for path in self.path.glob("*")
        ):
            raise RecipeError(f"{self.path} is not empty and holds no run. Choose another output_dir.")

    def check_data(self, record: dict[str, Any]) -> None:
        """
        Makes sure that a run which is to go on finds the data that it began with.

        Args:
            record: see `Task`.
        Raises:
            RecipeError: the data, a frozen model or the number of images held out are others.
        """
        for checkpoint in reversed(self.all_checkpoints()):
            try:
                then = json.loads((checkpoint / _DATA_RECORD).read_bytes())
                then = {new_name(name): value for name, value in then.items()}
            except (AttributeError, OSError, ValueError):  # a damaged checkpoint, from which no run goes on
                continue
            for name in {**then, **record}:
                change = _change(name, then.get(name), record.get(name))
                if change is not None:
                    raise RecipeError(f"{change} Or choose another output_dir to start anew.")
            return

    def claim(self, recipe: Recipe, record: dict[str, Any] | None = None) -> None:
        """Makes the folder and writes the recipe into it. Checkpoints get the record of the data; see `check_data`."""
        write_atomically(self.recipe_file, recipe_to_yaml(recipe).encode())
        self.data_record = record

    def write_data_record(self, checkpoint: Path) -> None:
        """Puts what the run learns from into a checkpoint that is being written."""
        if self.data_record is not None:
            (checkpoint / _DATA_RECORD).write_text(json.dumps(self.data_record, indent=1), encoding="utf-8")

    def all_checkpoints(self) -> list[Path]:
        """Checkpoints that were completed, the oldest first."""
        return sorted(self.checkpoints.glob("step_*"))

    @staticmethod
    def step_of(checkpoint: Path) -> int:
        """The step after which a checkpoint was saved."""
        return int(checkpoint.name.removeprefix("step_"))

    def newest_checkpoint(self) -> Path | None:
        """The newest completed checkpoint, if there is one."""
        return max(self.all_checkpoints(), default=None)

    @contextmanager
    def new_checkpoint(self, step: int, is_main_process: bool) -> Iterator[Path]:
        """A folder to fill by all processes together, which becomes the checkpoint of `step` when the block ends."""
        yield self.unfinished
        checkpoint = self.checkpoints / f"step_{step:08d}"
        if is_main_process:
            outdated = self.checkpoints / "outdated"
            if checkpoint.exists():  # of a step that was to be done again
                checkpoint.rename(outdated)
            os.replace(self.unfinished, checkpoint)
            flush_names(self.checkpoints)
            shutil.rmtree(outdated, ignore_errors=True)

    def remove_unfinished(self) -> None:
        """Removes a checkpoint that could not be completed."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def set_aside(self, checkpoint: Path) -> None:
        """Renames a damaged checkpoint: nothing resumes from it, and it goes when a newer one replaces it."""
        aside = checkpoint.with_name(f"damaged_{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)

    def remove_checkpoints_but(self, num_kept: int) -> None:
        """Removes all but the newest ones, and damaged ones that are no newer than these."""
        checkpoints = self.all_checkpoints()
        for outdated in checkpoints[:-num_kept]:
            self._remove(outdated)
        for damaged in self.checkpoints.glob("damaged_*"):
            if checkpoints and damaged.name.removeprefix("damaged_") <= checkpoints[-1].name:
                self._remove(damaged)

    def _remove(self, checkpoint: Path) -> None:
        # The name goes first: a half-removed checkpoint must not look like a whole one.
        shutil.rmtree(checkpoint.rename(checkpoint.with_name("outdated")))

    def tidy(self, step: int) -> None:
        """Removes what a killed run left half-done, and the entries of steps after `step`, which come again."""
        self.remove_unfinished()
        shutil.rmtree(self.checkpoints / "outdated", ignore_errors=True)
        # What `titok_hf.checkpoints.atomic_files` had in work.
        for leftover in [*self.path.rglob(".unfinished-*"), *self.path.rglob(".replaced-*")]:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)  # it may have lain in one that has just gone
        if self.metrics_file.exists():
            kept = [entry for entry in self.metrics() if entry["step"] <= step]
            write_atomically(self.metrics_file, "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Adds one line to `metrics.jsonl`."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All entries so far; a line that a kill cut off, or that was damaged later, is left out."""
        entries = []
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            with suppress(json.JSONDecodeError):
                entry = json.loads(line) if line.endswith("\n") else None
                entries += [entry] if isinstance(entry, dict) and isinstance(entry.get("step"), int) else []
        return entries

    def _recipe_there(self, like: Recipe) -> Recipe | None:
        """The recipe of the run that is there; None if it is of another kind than this one."""
        try:
            values = read_recipe(self.recipe_file)
            return build_recipe(type(like), values) if values.get("kind") == like.kind else None
        except (UnicodeDecodeError, RecipeError) as error:
            raise RecipeError(
                f"{self.recipe_file} can't be read ({' '.join(str(error).split())}). It is damaged, or of another "
                "version. Restore it, or choose another output_dir."
            ) from error

    @staticmethod
    def _differs(there: Recipe | None, recipe: Recipe) -> bool:
        if there is None:
            return True
        # How often it saves, where it lies and where it goes change nothing; where it ends, and how exact its numbers
        # are, is the user's to reconsider. How the global batch is shared out may change; its size may not, which the
        # checkpoint looks after.
        free = ("num_steps", "mixed_precision", "batch_size", "gradient_accumulation_steps")
        optimization = replace(there.optimization, **{name: getattr(recipe.optimization, name) for name in free})
        same = {name: getattr(recipe, name) for name in ("intervals", "output_dir", "push_to_hub", "system")}
        there, recipe = _with_free_data(there), _with_free_data(recipe)
        return replace(there, optimization=optimization, **same) != recipe


def _with_free_data(recipe: Recipe) -> Recipe:
    """Without what decides how images are read, but not which ones: a resumed run may change it."""
    data = getattr(recipe, "data", None)
    return recipe if data is None else replace(recipe, data=replace(data, num_workers=0, broken_images="stop"))  # type: ignore[call-arg]


def _change(name: str, then: Any, now: Any) -> str | None:
    """A sentence on what has changed since a run began, and what to do; None if nothing has."""
    if then == now:
        return None
    if name == HELD_OUT:
        return (
            f"{HELD_OUT} was {then} when this run began, and is {now}: as many images are held out of the training "
            f"split, so others would be learnt and measured. Set it to {then}, or leave the test split as it was."
        )
    if isinstance(then, dict) and isinstance(now, dict):
        # Imported here: the folder of a finished run is also read where no data is.
        from titok_hf.data.fingerprint import difference

        return f"The {name} changed since this run began: {difference(then, now)}. Restore them as they were."
    return f"The {name} changed since this run began. Restore what was there."
