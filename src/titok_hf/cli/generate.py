"""`titok-hf generate`: new images of the classes of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import progress_bar
from .images import (
    answer_with_images,
    batches,
    file_name_of,
    make_output_folder,
    save_image,
    save_sheet,
    sheet_name,
)
from .models import load_pipeline, model_name
from .options import (
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Engine,
    Format,
    Grid,
    GuidanceScale,
    Model,
    Seed,
    Steps,
    Temperature,
)
from .sampler_options import GuidingModel, Sampler, Settings, change_sampler, load_guiding_generator

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from titok_hf.pipeline_titok import TiTokPipeline

_EVERY_CLASS = "all"
# A larger contact sheet is slow to open in image viewers.
_SHEET_COLUMNS = 10
_SHEET_ROWS = 50


@dataclass(frozen=True)
class _Sample:
    """An image to generate: number `index` of the class `label`, whose name is `name`."""

    label: int
    index: int
    name: str

    @property
    def stem(self) -> str:
        """The name of its file, without the suffix."""
        return f"{self.label:03d}-{file_name_of(self.name)}-{self.index:03d}"

    def generator(self, seed: int) -> torch.Generator:
        """A generator of its own; `titok-hf evaluate generation` uses the same for this image."""
        from titok_hf.evaluation.evaluate_generation import image_generator

        return image_generator(seed, self.label, self.index)


def generate(
    classes: Annotated[
        list[str],
        typer.Argument(metavar="CLASS", help="Names or numbers of classes, or **all**.", show_default=False),
    ],
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images of each class.")] = 4,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("generated"),
    seed: Seed = 0,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    sampler: Sampler = None,
    sampler_settings: Settings = None,
    guiding_model: GuidingModel = None,
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "float32",
    engine: Engine = None,
    image_format: Format = "png",
    grid: Grid = True,
    as_json: AsJson = False,
) -> None:
    """
    Make new images of CLASS..., each as a file, and a contact sheet with one row for each class.

    **Examples**

    `titok-hf generate Sneaker "Ankle boot" -n 8 -o shoes --seed 7`

    `titok-hf generate all --steps 16`

    `titok-hf generate all --sampler remdm --set remask=rescale --set eta=0.1 --steps 16`
    """
    pipe = load_generator(model, device, dtype, engine)
    change_sampler(pipe, sampler, sampler_settings, guiding_model is not None)
    labels = labels_of(pipe, classes)
    names = [pipe.id2label.get(label, str(label)).split(",")[0].strip() for label in labels]
    make_output_folder(output)
    classes_made = zip(labels, names, strict=True)
    samples = [_Sample(label, index, name) for label, name in classes_made for index in range(num_images)]
    shown: list[Image.Image] = []
    files: list[Path] = []
    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    settings |= {"temperature": temperature, "guiding_transformer": load_guiding_generator(guiding_model, pipe)}
    for sample, image in _generated(pipe, samples, seed, batch_size, settings):
        files.append(save_image(image, output / f"{sample.stem}.{image_format}"))
        if sample.index < _SHEET_COLUMNS and len(shown) < _SHEET_ROWS * min(num_images, _SHEET_COLUMNS):
            shown.append(image)
    sheet = None
    if grid:
        sheet = output / sheet_name("generated", ["all"] if classes == [_EVERY_CLASS] else names)
        save_sheet(shown, sheet, min(num_images, _SHEET_COLUMNS), labels=names[:_SHEET_ROWS])
    described = [
        {"file": file, "label": sample.label, "class": sample.name, "index": sample.index}
        for file, sample in zip(files, samples, strict=True)
    ]
    values = {"images": described, "model": model_name(model), "seed": seed}
    made = f"{len(samples)} images of {'1 class' if len(labels) == 1 else f'{len(labels)} classes'}"
    answer_with_images("generated", made, output, sheet, values, as_json)


def _generated(
    pipe: TiTokPipeline, samples: Sequence[_Sample], seed: int, batch_size: int, settings: dict[str, Any]
) -> Iterator[tuple[_Sample, Image.Image]]:
    """Each sample and its image, batch by batch; a progress bar counts the sampling steps."""
    num_steps = settings["num_inference_steps"] or pipe.scheduler.config.num_inference_steps
    with progress_bar() as bar:
        task = bar.add_task("generating", total=len(samples) * num_steps)
        for batch in batches(samples, batch_size):

            def advance(pipe: TiTokPipeline, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
                bar.advance(task, len(batch))  # noqa: B023 - called within this turn of the loop only
                return {}

            images = pipe(
                [sample.label for sample in batch],
                generator=[sample.generator(seed) for sample in batch],
                callback_on_step_end=advance,
                **settings,
            ).images
            yield from zip(batch, images, strict=True)


def load_generator(
    model: str | None, device: str | None, dtype: str = "float32", engine: str | None = None
) -> TiTokPipeline:
    """The pipeline of a model; ValueError if it is only a tokenizer."""
    pipe = load_pipeline(model, device, dtype, engine)
    if pipe.transformer is None:
        kind = "no generator" if pipe.tokenizer.config.has_codebook else "a KL model, which has no codes to generate"
        raise ValueError(f"{model_name(model)} is a tokenizer alone ({kind}). Name a pipeline with --model.")
    return pipe


def labels_of(pipe: TiTokPipeline, classes: list[str]) -> list[int]:
    """Numbers of the classes that the user names, without repetitions, in this order."""
    if classes == [_EVERY_CLASS]:
        return list(range(pipe.classes.num_classes))
    # Digits are the number of a class, unless a class has this name, as in MNIST.
    labels = [int(name) if name.isdigit() and name not in pipe.classes else name for name in classes]
    try:
        return list(dict.fromkeys(pipe.get_label_ids(labels)))
    except ValueError as error:
        text = str(error).replace("class_labels has", "CLASS is").replace("a name from `pipe.id2label`", "a name")
        raise ValueError(f"{text} All names: titok-hf info --json") from error
