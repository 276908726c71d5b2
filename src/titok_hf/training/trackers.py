"""What a run reports besides its losses: what it trains on, the remaining time, and the recipe for the trackers."""

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import yaml
from accelerate import Accelerator
from torch import nn

from titok_hf.checkpoints.atomic_files import write_atomically
from titok_hf.data.loaders import ResumableLoader

from .configs import Recipe
from .recipes import recipe_to_yaml
from .run_folder import RunFolder

_PROJECT = "titok"


def start_trackers(accelerator: Accelerator, recipe: Recipe, folder: RunFolder) -> None:
    """
    Starts the recipe's trackers and logs the recipe. A run is named after its folder. A resumed run continues its old
    run where the tracker can do that.
    """
    options: dict[str, dict[str, Any]] = {}
    if accelerator.is_main_process:
        options["wandb"] = {
            "name": folder.path.name,
            "id": _run_id(folder) if "wandb" in recipe.intervals.trackers else None,
            "resume": "allow",
            "dir": str(folder.path / "logs"),
        }
        options["trackio"] = {"name": folder.path.name, "resume": "allow"}
    accelerator.init_trackers(_PROJECT, init_kwargs=options)
    if not accelerator.is_main_process:
        return
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            # Its hyperparameters would appear as a second run.
            tracker.writer.add_text("recipe", f"```yaml\n{recipe_to_yaml(recipe)}```")
        else:
            tracker.store_init_configuration(flat_recipe(recipe))


def flat_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe for trackers: `{"optimization.batch_size": 32, ...}`, lists as text."""

    def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, json.dumps(value) if isinstance(value, list) else value

    return dict(flat(yaml.safe_load(recipe_to_yaml(recipe))))


def _run_id(folder: RunFolder) -> str:
    """The id of the run for wandb, made at its first start."""
    path = folder.path / "logs" / "wandb_id"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex[:12].encode())
    return path.read_text().strip()


def announcement(
    recipe: Recipe, accelerator: Accelerator, modules: dict[str, nn.Module], loader: ResumableLoader, step: int
) -> str:
    """The message at the start of a run: device, processes, global batch, parameters, images and epochs."""
    optimization, processes = recipe.optimization, accelerator.num_processes
    accumulated = optimization.gradient_accumulation_steps
    batch = optimization.batch_size * accumulated * processes
    lines = [
        f"{recipe.kind} in {recipe.output_dir}, steps {step:,} to {optimization.num_steps:,}",
        f"device: {accelerator.device}, {processes} process{'es' if processes > 1 else ''}, "
        f"mixed precision: {optimization.mixed_precision}",
        f"global batch: {batch:,} = {optimization.batch_size} x {accumulated} accumulated x {processes} processes",
    ]
    for name, module in modules.items():
        total = sum(parameter.numel() for parameter in module.parameters())
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        lines.append(f"{name}: {total:,} parameters, {trained:,} of them trained")
    examples = loader.num_examples
    if examples is None:
        lines.append("training images: a stream")
    else:
        epochs = optimization.num_steps * batch / examples
        lines.append(f"training images: {examples:,}, which is {epochs:,.2f} epochs")
    return "\n  ".join(lines)


def remaining(steps_done: int, steps_left: int, seconds: float) -> str:
    """The time that is left at the present speed, as hours:minutes:seconds."""
    return str(timedelta(seconds=round(seconds / max(steps_done, 1) * steps_left)))
