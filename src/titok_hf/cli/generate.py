"""`titok-hf generate`: new pictures of the classes that a model knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel

from ..pictures import contact_sheet
from .console import answer, bold, progress_bar
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, Model
from .pictures import batches, file_name_of, make_output_folder, save_picture, sheet_name

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from titok_hf.pipeline_titok import TiTokPipeline

_EVERY_CLASS = "all"
# A sheet is for a look at the results: beyond this it would be larger than image viewers like.
_SHEET_COLUMNS = 10
_SHEET_ROWS = 50


@dataclass(frozen=True)
class _Picture:
    """One picture to make: the `index`-th of class `label`."""

    label: int
    index: int

    def generator(self, seed: int) -> torch.Generator:
        """Its own source of noise, so that the picture depends neither on the batch nor on which others are made."""
        import numpy as np
        import torch

        state = np.random.SeedSequence((seed, self.label, self.index)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))


def generate(
    classes: Annotated[
        list[str],
        typer.Argument(metavar="CLASS", help="Names or numbers of classes, or **all**.", show_default=False),
    ],
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Pictures of each class.")] = 4,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("generated"),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps. By default the model's own number.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="How closely to follow the class. By default the model's own.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="How much chance the choice of codes has. By default the model's own.")
    ] = None,
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Make new pictures of CLASS..., each as a PNG file, and a contact sheet with one row a class.

    **Examples**

    `titok-hf generate Sneaker "Ankle boot" -n 8 -o shoes --seed 7`

    `titok-hf generate all --steps 16`
    """
    pipe = load_pipeline(model, device)
    if pipe.transformer is None:
        kind = "no generator" if pipe.tokenizer.config.has_codebook else "a KL model, which has no codes to generate"
        raise ValueError(f"{model_name(model)} is a tokenizer alone ({kind}). Name a pipeline with --model.")
    labels = _labels(pipe, classes)
    make_output_folder(output)
    wanted = [_Picture(label, index) for label in labels for index in range(num_images)]
    shown: list[Image.Image] = []
    files: list[Path] = []
    num_steps = steps or pipe.scheduler.config.num_inference_steps
    with progress_bar() as bar:
        task = bar.add_task("generating", total=len(wanted) * num_steps)
        for batch in batches(wanted, batch_size):

            def advance(pipe: TiTokPipeline, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
                bar.advance(task, len(batch))  # noqa: B023 - called within this turn of the loop only
                return {}

            images = pipe(
                [picture.label for picture in batch],
                generator=[picture.generator(seed) for picture in batch],
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                temperature=temperature,
                callback_on_step_end=advance,
            ).images
            for picture, image in zip(batch, images, strict=True):
                files.append(save_picture(image, output / _file_name(pipe, picture)))
                if picture.index < _SHEET_COLUMNS and len(shown) < _SHEET_ROWS * min(num_images, _SHEET_COLUMNS):
                    shown.append(image)
    rows = [_name(pipe, label) for label in labels[:_SHEET_ROWS]]
    names = ["all"] if classes == [_EVERY_CLASS] else [_name(pipe, label) for label in labels]
    sheet = output / sheet_name("generated", names)
    save_picture(contact_sheet(shown, columns=min(num_images, _SHEET_COLUMNS), labels=rows), sheet)
    classes_made = "1 class" if len(labels) == 1 else f"{len(labels)} classes"
    summary = f"{len(wanted)} pictures of {classes_made} in {bold(output)}\nall at a glance: {bold(sheet)}"
    values = {
        "pictures": [
            {"file": file, "label": picture.label, "class": _name(pipe, picture.label), "index": picture.index}
            for file, picture in zip(files, wanted, strict=True)
        ],
        "contact_sheet": sheet,
        "model": model_name(model),
        "seed": seed,
    }
    answer(values, as_json, Panel.fit(summary, title="generated"))


def _labels(pipe: TiTokPipeline, classes: list[str]) -> list[int]:
    """Numbers of the classes that the user names; each once, in the order given."""
    if classes == [_EVERY_CLASS]:
        return list(range(pipe.classes.num_classes))
    # A number is a class's number, unless the class has that number for a name, as digits have.
    labels = [int(name) if name.isdigit() and name not in pipe.classes else name for name in classes]
    try:
        return list(dict.fromkeys(pipe.get_label_ids(labels)))
    except ValueError as error:
        text = str(error).replace("class_labels has", "CLASS is").replace("a name from `pipe.id2label`", "a name")
        raise ValueError(f"{text} All names: titok-hf info --json") from error


def _name(pipe: TiTokPipeline, label: int) -> str:
    """A class's first name; its number where the model has no names."""
    return pipe.id2label.get(label, str(label)).split(",")[0].strip()


def _file_name(pipe: TiTokPipeline, picture: _Picture) -> str:
    return f"{picture.label:03d}-{file_name_of(_name(pipe, picture.label))}-{picture.index:03d}.png"


__all__ = ["generate"]
