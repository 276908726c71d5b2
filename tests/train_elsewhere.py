"""
Trains recipes for some steps on a device that is not the CPU, real or pretended.

    python tests/train_elsewhere.py RECIPES.json

RECIPES.json: names to values of recipes. Prints a line of JSON: each name, and what went wrong or null.
"""

import json
import sys
import traceback
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState

import labelled_device
from titok_hf.training.loop import TrainingLoop
from titok_hf.training.start import make_accelerator, make_task
from titok_hf.training.step import train_step
from training_runs import forget_accelerate, recipe_of


def train_on(device: torch.device, values: dict[str, Any]) -> None:
    """All that a run does but files: steps, averaged weights, the log, an evaluation."""
    forget_accelerate()
    recipe = recipe_of(values)
    accelerator = make_accelerator(recipe)
    for state in (PartialState, AcceleratorState):
        state._shared_state["device"] = device
    task = make_task(recipe, accelerator)
    loop = TrainingLoop(task, recipe, accelerator)
    batches = iter(task.loader)
    for step in range(recipe.optimization.num_steps):
        taken = [next(batches) for _ in range(recipe.optimization.gradient_accumulation_steps)]
        on_device = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in taken]
        scalars = train_step(task, loop.learners, on_device, accelerator, recipe.seed, step)
        assert all(value.device == device for value in scalars.values()), scalars
        task.after_step()
        loop.ema.step(task.model.parameters())
    loop.ema.copy_to(task.model.parameters())
    task.summary()
    with torch.no_grad():
        task.model.eval()
        measures, _ = task.evaluate()
    assert torch.tensor(list(measures.values())).isfinite().all(), measures


def main() -> None:
    device = labelled_device.start()
    with open(sys.argv[1]) as file:
        recipes = json.load(file)
    errors: dict[str, str | None] = {}
    for name, values in recipes.items():
        errors[name] = None
        try:
            train_on(device, values)
        except Exception:
            errors[name] = traceback.format_exc()[:6_000]
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
