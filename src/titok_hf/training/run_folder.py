"""The folder of a run: its recipe, its log entries and its checkpoints, each of them complete or absent."""

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

# The file that is locked while a run trains.
_LOCK = ".lock"
# In each checkpoint: the record of the data.
_DATA_RECORD = "data.json"


class RunFolder:
    """
    What a run writes, and what it resumes from.

    Args:
        path: the recipe's `output_dir`. It receives `recipe.yaml`, `metrics.jsonl`, `checkpoints/`, `images/`,
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
        Locks the folder for this process; the lock ends with the process, even if it is killed.

        Raises:
            RecipeError: another run is training in it.
        """
        # Imported here because the folder of a finished run is also read where nothing is trained.
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
            # Removed before the release: otherwise another run could lock a file that is then removed.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def check(self, recipe: Recipe) -> None:
        """
        Checks that the folder is empty or holds a run with this recipe; nothing is changed.

        Raises:
            RecipeError: it holds something else, or a run with another recipe.
        """
        if self.recipe_file.exists():
            saved = self._saved_recipe(recipe)
            if saved is None or _with_free_values(saved, recipe) != recipe:
                raise RecipeError(
                    f"{self.path} holds a run with another recipe (see {self.recipe_file}). Resume it with the same "
                    "recipe, or choose another output_dir."
                )
        # A run that was killed at its very start leaves its lock and an unfinished recipe.
        elif self.path.is_file() or any(
            not path.name.startswith((".unfinished-", _LOCK)) for path in self.path.glob("*")
        ):
            raise RecipeError(f"{self.path} is not empty and holds no run. Choose another output_dir.")

    def check_data(self, record: dict[str, Any]) -> None:
        """
        Checks that a resumed run has the data that it began with.

        Args:
            record: see `Task`.
        Raises:
            RecipeError: the data, a frozen model or the number of images held out have changed.
        """
        for checkpoint in reversed(self.all_checkpoints()):
            try:
                then = json.loads((checkpoint / _DATA_RECORD).read_bytes())
                then = {new_name(name): value for name, value in then.items()}
            except (AttributeError, OSError, ValueError):  # a damaged checkpoint, from which no run resumes
                continue
            for name in {**then, **record}:
                change = _change(name, then.get(name), record.get(name))
                if change is not None:
                    raise RecipeError(f"{change} Or choose another output_dir for a new run.")
            return

    def claim(self, recipe: Recipe, record: dict[str, Any] | None = None) -> None:
        """Writes the recipe into the folder. Later checkpoints contain the record of the data; see `check_data`."""
        write_atomically(self.recipe_file, recipe_to_yaml(recipe).encode())
        self.data_record = record

    def write_data_record(self, checkpoint: Path) -> None:
        """Writes the record of the data into a checkpoint."""
        if self.data_record is not None:
            (checkpoint / _DATA_RECORD).write_text(json.dumps(self.data_record, indent=1), encoding="utf-8")

    def all_checkpoints(self) -> list[Path]:
        """Complete checkpoints, the oldest first."""
        return sorted(self.checkpoints.glob("step_*"))

    @staticmethod
    def step_of(checkpoint: Path) -> int:
        """The step after which a checkpoint was saved."""
        return int(checkpoint.name.removeprefix("step_"))

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if there is one."""
        return max(self.all_checkpoints(), default=None)

    @contextmanager
    def new_checkpoint(self, step: int, is_main_process: bool) -> Iterator[Path]:
        """A folder that all processes fill together. It becomes the checkpoint of `step` when the block ends."""
        yield self.unfinished
        checkpoint = self.checkpoints / f"step_{step:08d}"
        if is_main_process:
            outdated = self.checkpoints / "outdated"
            if checkpoint.exists():  # of a step that was repeated
                checkpoint.rename(outdated)
            os.replace(self.unfinished, checkpoint)
            flush_names(self.checkpoints)
            shutil.rmtree(outdated, ignore_errors=True)

    def remove_unfinished(self) -> None:
        """Removes a checkpoint that could not be completed."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def set_aside(self, checkpoint: Path) -> None:
        """Renames a damaged checkpoint: no run resumes from it, and it is removed once there is a newer checkpoint."""
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
        # Renamed first: a partly removed checkpoint must not look complete.
        shutil.rmtree(checkpoint.rename(checkpoint.with_name("outdated")))

    def tidy(self, step: int) -> None:
        """Removes unfinished files of a killed run, and the log entries after `step`, which will be written again."""
        self.remove_unfinished()
        shutil.rmtree(self.checkpoints / "outdated", ignore_errors=True)
        # Unfinished files of `titok_hf.checkpoints.atomic_files`.
        for leftover in [*self.path.rglob(".unfinished-*"), *self.path.rglob(".replaced-*")]:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)  # its folder may have just been removed
        if self.metrics_file.exists():
            kept = [entry for entry in self.metrics() if entry["step"] <= step]
            write_atomically(self.metrics_file, "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Adds one line to `metrics.jsonl`."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All entries so far, without incomplete or damaged lines."""
        entries = []
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            with suppress(json.JSONDecodeError):
                entry = json.loads(line) if line.endswith("\n") else None
                entries += [entry] if isinstance(entry, dict) and isinstance(entry.get("step"), int) else []
        return entries

    def _saved_recipe(self, like: Recipe) -> Recipe | None:
        """The recipe of the run in this folder; None if it is of another kind than `like`."""
        try:
            values = read_recipe(self.recipe_file)
            return build_recipe(type(like), values) if values.get("kind") == like.kind else None
        except (UnicodeDecodeError, RecipeError) as error:
            raise RecipeError(
                f"{self.recipe_file} can't be read ({' '.join(str(error).split())}). It is damaged, or of another "
                "version. Restore it, or choose another output_dir."
            ) from error


def _with_free_values(saved: Recipe, recipe: Recipe) -> Recipe:
    """A saved recipe with those values of another one that a resumed run may change."""

    def changed(part: Any, other: Any, *names: str) -> Any:
        return replace(part, **{name: getattr(other, name) for name in names})

    # How a global batch is split may change. Its size may not, which is checked when the checkpoint is loaded.
    free = ("num_steps", "mixed_precision", "batch_size", "gradient_accumulation_steps")
    optimization = changed(saved.optimization, recipe.optimization, *free)
    saved = replace(saved, optimization=optimization)
    data, new_data = (getattr(each, "data", None) for each in (saved, recipe))
    if data is not None and new_data is not None:
        saved = replace(saved, data=changed(data, new_data, "num_workers", "broken_images"))  # type: ignore[call-arg]
    return changed(saved, recipe, "intervals", "output_dir", "push_to_hub", "system")


def _change(name: str, then: Any, now: Any) -> str | None:
    """A sentence on what has changed since a run began, and what to do; None if nothing has."""
    if then == now:
        return None
    if name == HELD_OUT:
        return (
            f"{HELD_OUT} was {then} when this run began, and is {now}. That many images are held out of the training "
            f"split, so the run would train and test on other images. Set it to {then}, or keep the test split."
        )
    if isinstance(then, dict) and isinstance(now, dict):
        # Imported here because the folder of a finished run is also read where no data are.
        from titok_hf.data.fingerprint import difference

        return f"The {name} changed since this run began: {difference(then, now)}. Restore them as they were."
    return f"The {name} changed since this run began. Restore what was there."
