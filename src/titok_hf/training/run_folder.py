"""The folder of a run: its recipe, its entries and its checkpoints, each whole or not there."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from titok_hf.atomic_files import write_atomically

from .configs import Recipe
from .recipes import RecipeError, build_recipe, recipe_to_yaml


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
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"

    def check(self, recipe: Recipe) -> None:
        """
        Makes sure that the folder is empty or holds a run with this recipe.

        Raises:
            RecipeError: it belongs to something else, or to a run with another recipe; it is left as it is.
        """
        if self.recipe_file.exists():
            values = yaml.safe_load(self.recipe_file.read_text(encoding="utf-8"))
            if values.get("kind") != recipe.kind or self._differs(build_recipe(type(recipe), values), recipe):
                raise RecipeError(
                    f"{self.path} holds a run with another recipe (see {self.recipe_file}). Resume it with the same "
                    "recipe, or choose another output_dir."
                )
        # A run that was killed while it claimed its folder leaves an unfinished recipe.
        elif self.path.is_file() or any(not path.name.startswith(".unfinished-") for path in self.path.glob("*")):
            raise RecipeError(f"{self.path} is not empty and holds no run. Choose another output_dir.")

    def claim(self, recipe: Recipe) -> None:
        """Makes the folder and writes the recipe into it."""
        write_atomically(self.recipe_file, recipe_to_yaml(recipe).encode())

    def newest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, if there is one."""
        return max(self.checkpoints.glob("step_*"), default=None)

    @contextmanager
    def new_checkpoint(self, step: int, is_main_process: bool) -> Iterator[Path]:
        """A folder to fill by all processes together, which becomes the checkpoint of `step` when the block ends."""
        unfinished = self.checkpoints / "unfinished"
        yield unfinished
        checkpoint = self.checkpoints / f"step_{step:08d}"
        if is_main_process:
            if checkpoint.exists():  # of a step that was to be done again
                self._remove(checkpoint)
            os.replace(unfinished, checkpoint)

    def remove_checkpoints_but(self, num_kept: int) -> None:
        """Removes all but the newest ones."""
        for outdated in sorted(self.checkpoints.glob("step_*"))[:-num_kept]:
            self._remove(outdated)

    def _remove(self, checkpoint: Path) -> None:
        # The name goes first: a half-removed checkpoint must not look like a whole one.
        shutil.rmtree(checkpoint.rename(checkpoint.with_name("outdated")))

    def tidy(self, step: int) -> None:
        """Removes what a killed run left half-done, and the entries of steps after `step`, which come again."""
        for name in ("unfinished", "outdated"):
            shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        # What `titok_hf.atomic_files` had in work.
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
        """All entries so far; a line that was cut off by a kill is left out."""
        entries = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                entries.append(json.loads(line))
        return entries

    @staticmethod
    def _differs(there: Recipe, recipe: Recipe) -> bool:
        # How often it saves, where it lies and where it goes change nothing; where it ends, and how exact its numbers
        # are, is the user's to reconsider. How the global batch is shared out may change; its size may not, which the
        # checkpoint looks after.
        free = ("num_steps", "mixed_precision", "batch_size", "gradient_accumulation_steps")
        optimization = replace(there.optimization, **{name: getattr(recipe.optimization, name) for name in free})
        same = {name: getattr(recipe, name) for name in ("cadence", "output_dir", "push_to_hub")}
        return replace(there, optimization=optimization, **same) != recipe


__all__ = ["RunFolder"]
