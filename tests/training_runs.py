"""Training runs of a second, in this process: a loop to look into, a run that is cut off, the weights at the end."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from safetensors.torch import load_file

from titok_hf.cli.application import app
from titok_hf.training.configs import RECIPES, Recipe
from titok_hf.training.loop import TrainingLoop
from titok_hf.training.recipes import build_recipe
from titok_hf.training.run_folder import RunFolder
from titok_hf.training.start import make_accelerator, make_task, train

Weights = dict[str, torch.Tensor]


def train_command(arguments: list[str]) -> None:
    """`titok-hf train` in this process: returns after a whole run, else raises SystemExit with the exit code."""
    try:
        app(["train", *arguments])
    except SystemExit as end:
        if end.code:
            raise


def forget_accelerate() -> None:
    """accelerate keeps precision and accumulation for the whole process; the next run starts without."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def recipe_of(values: dict[str, Any], **changes: Any) -> Recipe:
    """The recipe of the kind that the values name, with other values on top; groups are merged."""
    values = dict(values)
    for key, change in changes.items():
        values[key] = values.get(key, {}) | change if isinstance(change, dict) else change
    return build_recipe(RECIPES[values["kind"]], values)


def weights_in(folder: str | Path, name: str = "model") -> Weights:
    """Weights of the model under a run's folder, of whatever kind it is; a pipeline's are those of its transformer."""
    folder = Path(folder) / name
    subfolder = folder / "transformer"
    file = next((subfolder if subfolder.is_dir() else folder).glob("*.safetensors"))
    return load_file(file)


def trained(values: dict[str, Any], **changes: Any) -> Weights:
    """Weights of the averaged model after a whole run, or after the rest of one that was cut off."""
    forget_accelerate()
    recipe = recipe_of(values, **changes)
    train(recipe)
    return weights_in(recipe.output_dir)


def loop_of(values: dict[str, Any], **changes: Any) -> TrainingLoop:
    """The loop that a run would be, not yet started."""
    forget_accelerate()
    recipe = recipe_of(values, **changes)
    RunFolder(recipe.output_dir).check(recipe)
    accelerator = make_accelerator(recipe)
    return TrainingLoop(make_task(recipe, accelerator), recipe, accelerator)


def loop_with_scaler(values: dict[str, Any], scale: float, growth_interval: int = 1_000) -> TrainingLoop:
    """
    A run in fp16 with a real gradient scaler. accelerate makes none for a CPU, so it is put where accelerate would
    have put it, before model and optimiser are prepared.
    """
    forget_accelerate()
    recipe = recipe_of(values)
    RunFolder(recipe.output_dir).claim(recipe)
    set_seed(recipe.seed)
    accelerator = Accelerator(
        mixed_precision="fp16",
        cpu=True,
        gradient_accumulation_steps=recipe.optimization.gradient_accumulation_steps,
    )
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    return TrainingLoop(make_task(recipe, accelerator), recipe, accelerator)


def cut_off(values: dict[str, Any], after_step: int, **changes: Any) -> TrainingLoop:
    """A run that ends, as by Ctrl-C, in the middle of the step after `after_step`."""
    loop = loop_of(values, **changes)
    finish_step = loop.task.after_step

    def finish_or_interrupt() -> None:
        if loop.step > after_step:
            raise KeyboardInterrupt
        finish_step()

    loop.task.after_step = finish_or_interrupt
    try:
        loop.run()
    except KeyboardInterrupt:
        return loop
    raise AssertionError(f"the run ended before step {after_step + 1}")


def entries_of(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What `metrics.jsonl` holds."""
    return RunFolder(values["output_dir"]).metrics()


def series(values: dict[str, Any], name: str) -> list[float]:
    """One measure of `metrics.jsonl` over the steps at which it was logged."""
    return [entry[name] for entry in entries_of(values) if name in entry]


def equal(first: Weights, second: Weights) -> bool:
    """Whether two sets of weights have the same names and the same bits."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def same_state(first: Any, second: Any) -> bool:
    """Whether two nested training states hold the same bits."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return bool(first == second)
