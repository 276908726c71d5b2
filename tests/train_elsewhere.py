"""
Trains recipes for some steps on a device that is not the CPU, real or pretended.

    python tests/train_elsewhere.py RECIPES.json

RECIPES.json: names to values of recipes. Prints a line of JSON: each name, and what went wrong or null; then another:
each name, and the operations of its steps for which the host waits for the device.
"""

import json
import sys
import traceback
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState

import labelled_device
from titok_hf.devices import moved_without_wait
from titok_hf.training.loop import TrainingLoop
from titok_hf.training.start import make_accelerator, make_task
from titok_hf.training.step import train_step
from training_runs import forget_accelerate, recipe_of


def train_on(device: torch.device, values: dict[str, Any]) -> list[str]:
    """All that a run does but files: steps, averaged weights, the log, an evaluation. Returns the waits of steps."""
    forget_accelerate()
    recipe = recipe_of(values)
    accelerator = make_accelerator(recipe)
    for state in (PartialState, AcceleratorState):
        state._shared_state["device"] = device
    task = make_task(recipe, accelerator)
    loop = TrainingLoop(task, recipe, accelerator)
    batches, waits = iter(task.loader), []
    for step in range(recipe.optimization.num_steps):
        taken = [next(batches) for _ in range(recipe.optimization.gradient_accumulation_steps)]
        with labelled_device.counted_waits() as of_step:
            on_device = [{name: moved_without_wait(each, device) for name, each in batch.items()} for batch in taken]
            scalars, finite = train_step(task, loop.learners, on_device, accelerator, loop.guard, recipe.seed, step)
            task.after_step()
            loop.ema.step(list(task.model.parameters()), finite)
        waits += of_step if step else []  # the first step also makes the state of the optimiser
        assert all(value.device == device for value in scalars.values()), scalars
    assert loop.guard.check().error is None
    loop.ema.copy_to(task.model.parameters())
    task.summary()
    with torch.no_grad():
        task.model.eval()
        measures, _ = task.evaluate()
    assert torch.tensor(list(measures.values())).isfinite().all(), measures
    return waits


def main() -> None:
    device = labelled_device.start()
    with open(sys.argv[1]) as file:
        recipes = json.load(file)
    errors: dict[str, str | None] = {}
    waits: dict[str, list[str]] = {}
    for name, values in recipes.items():
        errors[name] = None
        try:
            waits[name] = train_on(device, values)
        except Exception:
            errors[name] = traceback.format_exc()[:6_000]
    print(json.dumps(errors))
    print(json.dumps(waits))


if __name__ == "__main__":
    main()
