"""Evaluates the tasks of some recipes with their first weights, in as many processes as a launcher starts."""

import json
import sys
from pathlib import Path

from torch import nn

from titok_hf.training.start import load_training_recipe, make_accelerator, make_task


def evaluated(recipe_file: Path) -> dict[str, float]:
    """The measures of a recipe's task, and how many examples its model was given for them in this process."""
    recipe = load_training_recipe(str(recipe_file))
    task = make_task(recipe, make_accelerator(recipe))
    examples = 0

    def count(module: nn.Module, positional: tuple, named: dict) -> None:
        nonlocal examples
        examples += len(positional[0] if positional else next(iter(named.values())))

    task.model.eval().register_forward_pre_hook(count, with_kwargs=True)
    measures, image = task.evaluate()
    assert (image is not None) == task.accelerator.is_main_process
    return measures | {"examples": examples}


if __name__ == "__main__":
    print(json.dumps([evaluated(Path(name)) for name in sys.argv[1:]]))
