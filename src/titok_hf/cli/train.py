"""`titok-hf train`: a run of training as a recipe describes it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from ..extras import check_extra
from .console import answer
from .options import AsJson


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="Name of a recipe of this package, or path of a YAML file.", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the recipe.", show_default=False),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="USER/NAME", help="Upload the finished model.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Train a tokenizer or a generator, or resume a run that was stopped.

    For several GPUs: `accelerate launch -m titok_hf.cli train RECIPE`, with the same options.

    **Examples**

    `titok-hf train fashion_tokenizer --set output_dir=runs/first`

    `titok-hf train my_recipe.yaml --set optimization.batch_size=32 --set data.source=images`
    """
    check_extra("train", "datasets", "matplotlib", "pydantic", "torchmetrics", "yaml")
    from titok_hf.training.configs import load_training_recipe

    overrides = list(overrides or [])
    if push_to_hub is not None:
        overrides.append(f"push_to_hub={push_to_hub}")
    filled = load_training_recipe(recipe, overrides)
    # These import torch, which takes seconds, so that a wrong recipe is refused before.
    from titok_hf.training.start import speak_of_training_only
    from titok_hf.training.start import train as run

    speak_of_training_only()
    folder = run(filled)
    values = {"model": folder, "run": filled.output_dir, "pushed_to": filled.push_to_hub}
    answer(values, as_json, f"The model is in {escape(str(folder))}")
