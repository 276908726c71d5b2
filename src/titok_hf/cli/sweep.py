"""`titok-hf sweep`: which settings of the sampler suit a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..extras import check_extra
from .console import answer, bold, progress_bar
from .evaluate_models import CropOption, Data, Lossy, ModelArgument, model_identity
from .generate import load_generator
from .images import make_output_folder
from .options import AsJson, BatchSize, Device

if TYPE_CHECKING:
    from rich.progress import Progress

    from titok_hf.evaluation.frechet import FrechetDistance
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.sweep import Measured, SweepRecord
    from titok_hf.pipeline_titok import TiTokPipeline

_ROWS_SHOWN = 10
_Network = Annotated[
    str,
    typer.Option(
        "--network",
        help="The network of the Fréchet distance: the file of Inception weights, or a folder or Hub id of an image "
        "classifier.",
        show_default=False,
    ),
]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the table and the plot.")]
_Scales = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Values to try; 1 is no guidance.", show_default=False)
]
_Intervals = Annotated[
    str | None, typer.Option(metavar="A:B,...", help='First and last progress with guidance; "all" is every step.')
]
_Search = Annotated[
    Literal["grid", "hill-climb"],
    typer.Option(help="Every combination, or from neighbour to better neighbour until none is better."),
]
_WriteBest = Annotated[
    bool, typer.Option("--write-best", help="Make the best setting the default of the MODEL folder.")
]
_Values = Annotated[str | None, typer.Option(metavar="A,B,...", help="Values to try.", show_default=False)]


def sweep(
    model: ModelArgument,
    data: Data,
    network: _Network,
    output: _Output = Path("sweep"),
    guidance_scale: _Scales = None,
    guidance_interval: _Intervals = None,
    temperature: _Values = None,
    steps: _Values = None,
    guidance_schedule: _Values = None,
    mask_schedule: _Values = None,
    sampler: _Values = None,
    guidance: _Values = None,
    softmax_temperature: _Values = None,
    entropy_bound: _Values = None,
    remask: _Values = None,
    eta: _Values = None,
    search: _Search = "grid",
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=2, help="Images of each setting.")] = 1000,
    num_real: Annotated[int, typer.Option(min=2, help="Real images, evenly spaced over the split.")] = 10_000,
    split: Annotated[str, typer.Option(help="Split of the real images.")] = "train",
    crop: CropOption = "center",
    lossy: Lossy = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images, the same for every setting.")] = 0,
    batch_size: BatchSize = 100,
    write_best: _WriteBest = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Try settings of the sampler with a few images each, and measure their Fréchet distance from real images.

    The same command goes on where a killed one stopped. Settings that are not given stay as the model has them.

    **Examples**

    `titok-hf sweep my-model my-images --network my-classifier --guidance-scale 1,2,3,4 --temperature 1,2,4 -o sweep`

    `titok-hf sweep my-model my-images --network my-classifier --sampler confidence,moment,remdm --steps 8,16 -o steps`
    """
    given = locals()  # most axes have the name of their option
    check_extra("eval", "datasets", "matplotlib", "torchmetrics")
    axes = _axes(given | {"num_inference_steps": steps})
    make_output_folder(output)
    pipe = _generator(model, device, axes, write_best)
    from titok_hf.evaluation.frechet import FrechetDistance
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.sweep import SettingMeter, SweepRecord, setting_of
    from titok_hf.evaluation.sweep import sweep as run

    images = EvaluationImages(data, split, pipe.tokenizer.config.image_size, crop, num_real, lossy)
    distance = FrechetDistance(network, pipe.device)
    convention = _convention(pipe, model, images, distance, num_images, seed)
    record = SweepRecord(output, convention)
    with progress_bar() as bar:
        _read_real_images(images, distance, bar)
        measure = SettingMeter(pipe, distance, num_images, seed, batch_size)
        task = bar.add_task("settings", total=_num_combinations(axes) if search == "grid" else None)
        best = run(setting_of(pipe.scheduler), axes, measure, record, search, lambda _: bar.advance(task))
    _show(best, record, list(axes), convention, model if write_best else None, as_json)


def _read_real_images(images: EvaluationImages, distance: FrechetDistance, bar: Progress) -> None:
    reading = bar.add_task("real images", total=len(images))
    for pixels, _ in images.batches(100, lambda count: bar.advance(reading, count)):
        distance.update(pixels.float() / 255, real=True)


def _generator(model: str, device: str | None, axes: dict[str, list[Any]], write_best: bool) -> TiTokPipeline:
    """The pipeline; ValueError if it cannot generate or be written, or its scheduler refuses a value to try."""
    if write_best and not Path(model, "scheduler").is_dir():
        raise ValueError(f"--write-best changes the files of a folder, and {model} is no folder of a pipeline here.")
    pipe = load_generator(model, device)
    from titok_hf.evaluation.sweep import scheduler_with

    for name, tried in axes.items():
        for value in tried:
            scheduler_with(pipe.scheduler, {name: value})
    return pipe


def _show(
    best: Measured,
    record: SweepRecord,
    axes: list[str],
    convention: dict[str, Any],
    changed_model: str | None,
    as_json: bool,
) -> None:
    """Print the result, draw its plot beside the table, and write it into the model that is to change."""
    from titok_hf.evaluation.sweep import write_setting

    if changed_model is not None:
        write_setting(changed_model, best.setting)
    plot = _draw(record.measured, axes, record.table.parent / "sweep.png")
    values: dict[str, Any] = {
        "best": best.setting,
        "distance": best.distance,
        "images_per_second": best.images_per_second,
        "settings": len(record.measured),
        "table": record.table,
        "plot": plot,
        "written": changed_model is not None,
        "convention": convention,
    }
    note = (
        f"the best setting is now the default of {bold(changed_model)}"
        if changed_model
        else "keep it with --write-best"
    )
    summary = f"{len(record.measured)} settings in {bold(record.table)}, plot in {bold(plot)}; {note}"
    answer(values, as_json, _table(record.measured, axes), summary, *_lines(convention))


def _axes(given: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of each axis, from the arguments of the command; None is an option that was not given."""
    from titok_hf.evaluation.sweep import AXES

    axes = {}
    for name, read in AXES.items():
        text = given[name]
        if text is None:
            continue
        try:
            axes[name] = [read(value.strip()) for value in text.split(",")]
        except ValueError as error:
            raise ValueError(f"{name} is {text!r}, and values separated by commas are expected: {error}") from error
    if not axes:
        raise ValueError("no values to try are given. Give some, for example --guidance-scale 1,2,3.")
    return axes


def _num_combinations(axes: dict[str, list[Any]]) -> int:
    return math.prod(len(set(map(str, tried))) for tried in axes.values())


def _convention(
    pipe: TiTokPipeline, model: str, images: EvaluationImages, distance: FrechetDistance, num_images: int, seed: int
) -> dict[str, Any]:
    """What the distances depend on beside the settings and the images that are made."""
    import torch

    from titok_hf.evaluation.sweep import AXES

    sampler = {name: value for name, value in pipe.scheduler.config.items() if name[0] != "_" and name not in AXES}
    return {
        "measure": "Fréchet distance, images rounded to 8 bits",
        "network": distance.network.name,
        "model": model_identity(pipe, model),
        "sampler": sampler,
        "real_images": f"{len(images)} of {images.name}, split {images.split}, evenly spaced",
        "crop": images.crop,
        "device": pipe.device.type,
        "torch": torch.__version__,
        "num_images": num_images,
        "images": f"class i modulo the number of classes, seed {seed}",
    }


def _draw(measured: list[Measured], axes: list[str], path: Path) -> Path:
    """A panel for each axis with all settings and the lowest distance at each value, and one for the speed."""
    from titok_hf.evaluation.plots import Panel, draw_panels
    from titok_hf.evaluation.sweep import write_value

    distances = [each.distance for each in measured]
    panels = []
    for name in axes:
        values = [each.setting[name] for each in measured]
        if not all(isinstance(value, int | float) for value in values):
            values = [write_value(value) for value in values]
        lowest = {value: min(d for v, d in zip(values, distances, strict=True) if v == value) for value in values}
        ordered = lowest if isinstance(values[0], str) else sorted(lowest)
        line = (list(ordered), [lowest[value] for value in ordered])
        panels.append(Panel(name.replace("_", " "), "Fréchet distance", {"lowest": line}, (values, distances)))
    speeds = [each.images_per_second for each in measured]
    panels.append(Panel("images/s", "Fréchet distance", {}, (speeds, distances)))
    return draw_panels(panels, path)


def _table(measured: list[Measured], axes: list[str]) -> Table:
    """The best settings, the best first."""
    from titok_hf.evaluation.sweep import write_value

    table = Table()
    for name in axes:
        table.add_column(name.replace("_", " "), justify="right")
    for name in ("Fréchet distance", "images/s"):
        table.add_column(name, justify="right")
    for each in sorted(measured, key=lambda each: each.distance)[:_ROWS_SHOWN]:
        values = [write_value(each.setting[name]) for name in axes]
        table.add_row(*values, f"{each.distance:.4f}", f"{each.images_per_second:.1f}")
    return table


def _lines(convention: dict[str, Any]) -> list[str]:
    return [escape(f"{name.replace('_', ' ')}: {value}") for name, value in convention.items()]


__all__ = ["sweep"]
