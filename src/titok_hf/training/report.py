"""What is saved beside the model at the end of a run: its card, its curves, its last image."""

import shutil
from pathlib import Path

from titok_hf.checkpoints.atomic_files import write_atomically
from titok_hf.checkpoints.cards import (
    CURVES_NAME,
    RECONSTRUCTIONS_NAME,
    SAMPLES_NAME,
    CardContent,
    Measured,
    location_of,
    write_model_card,
)
from titok_hf.checkpoints.connection import check_push
from titok_hf.checkpoints.curves import draw_curves
from titok_hf.checkpoints.locations import is_hub_id
from titok_hf.checkpoints.push import push_folder

from .configs import Recipe
from .recipes import RecipeError, recipe_to_yaml
from .run_folder import RunFolder

# Name on a card, name on the Hub, and unit of each measure that cards contain.
_MEASURES = {
    "psnr": ("PSNR, mean over images", "psnr", "dB"),
    "ssim": ("SSIM, mean over images", "ssim", ""),
    "frechet_distance": ("Frechet distance", "frechet_distance", ""),
    "codes_used": ("codebook entries used", "codebook_usage", ""),
    "codebook_perplexity": ("codebook perplexity", "perplexity", ""),
    "proxy_code_loss": ("cross-entropy of the proxy codes", "cross_entropy", "nats"),
    "accuracy": ("accuracy of masked codes", "accuracy", ""),
    "loss": ("masked-token loss", "cross_entropy", "nats"),
}


def write_report(recipe: Recipe, folder: RunFolder, device: str, num_processes: int) -> None:
    """
    Writes `README.md`, `curves.png` and the last image into the run's `model/`. A card that a person edited stays. A
    classifier gets the curves only, and an adapter curves and image: our cards do not describe them.

    Args:
        recipe: that was run.
        folder: of the run.
        device: on which it ran, such as "cuda".
        num_processes: that ran it.
    """
    model = folder.path / "model"
    draw_curves(folder.metrics(), model / CURVES_NAME)
    if recipe.kind == "classifier":
        return
    image = max((folder.path / "images").glob("step_*.png"), default=None)
    if image is not None:
        name = SAMPLES_NAME if recipe.kind == "generator" else RECONSTRUCTIONS_NAME
        write_atomically(model / name, lambda path: shutil.copyfile(image, path))
    if getattr(recipe, "lora", None) is None:
        write_model_card(model, card_content(recipe, folder, device, num_processes))


def card_content(recipe: Recipe, folder: RunFolder, device: str, num_processes: int) -> CardContent:
    """What the card says of the run: data, results, recipe."""
    optimization = recipe.optimization
    batch_size = optimization.batch_size * optimization.gradient_accumulation_steps * num_processes
    command = f"titok-hf train {location_of(folder.path)}/recipe.yaml"
    return CardContent(
        title=folder.path.name,
        repo_id=recipe.push_to_hub,
        datasets=[_data_source(recipe)] if is_hub_id(_data_source(recipe)) else [],
        results=_results(recipe, folder, command),
        training=(
            f"Trained for {optimization.num_steps:,} steps with {batch_size} examples each, on {device} in "
            f"{num_processes} process{'es' if num_processes > 1 else ''}, by the recipe below (`recipe.yaml` in the "
            "folder of the run). The weights are running averages over the steps."
        ),
        training_commands=[command],
        recipe=recipe_to_yaml(recipe),
    )


def check_push_access(repo_id: str) -> None:
    """
    Asks the Hub, before the first step, whether the model may be pushed there; nothing is written.

    Raises:
        RecipeError: it may not.
    """
    try:
        check_push(repo_id)
    except (OSError, ValueError) as error:
        raise RecipeError(f"push_to_hub: {error}") from error


def push_model(recipe: Recipe, folder: RunFolder) -> str:
    """Uploads the run's `model/` to `recipe.push_to_hub`; returns the address. Errors as for `push_folder`."""
    assert recipe.push_to_hub is not None
    return push_folder(folder.path / "model", recipe.push_to_hub, message="Upload the trained model").address


def _results(recipe: Recipe, folder: RunFolder, command: str) -> list[Measured]:
    measures: dict[str, float] = {}
    for entry in folder.metrics():
        measures |= {name.removeprefix("test/"): value for name, value in entry.items() if name.startswith("test/")}
    source = _data_source(recipe)
    # The path of a folder is private.
    data = source if is_hub_id(source) else Path(source).name
    split = f"up to {recipe.intervals.num_test_images:,} test images"
    task = "generation" if recipe.kind == "generator" else "reconstruction"
    results = []
    for name in _MEASURES.keys() & measures.keys():
        title, metric, unit = _MEASURES[name]
        results.append(Measured(title, measures[name], metric, data, data, split, unit, command, task=task))
    return results


def _data_source(recipe: Recipe) -> str:
    data = getattr(recipe, "data", None) or recipe.codes  # type: ignore[attr-defined]
    return data.source
