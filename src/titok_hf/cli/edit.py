"""`titok-hf edit`: images changed through their codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import progress_bar, report_errors
from .generate import labels_of, load_generator
from .images import (
    answer_with_images,
    batches,
    batches_with_progress,
    check_images,
    check_inputs_stay,
    distinct_stems,
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
    Format,
    Grid,
    GuidanceScale,
    Images,
    Model,
    Seed,
    Steps,
    Temperature,
)
from .shared_options import shares_options

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from titok_hf.editing.token_optimization import TokenOptimization
    from titok_hf.pipeline_titok import TiTokPipeline

_SHEET_COLUMNS = 10
_SHEET_ROWS = 50

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")]
NumImages = Annotated[int, typer.Option("--num-images", "-n", min=1, help="Results for each image.")]
Strength = Annotated[
    float, typer.Option("--strength", help="Share of the codes that is resampled, above 0 and up to 1.")
]

app = typer.Typer(
    help="Change images through their codes: variations, another class, a filled hole, steps between two images.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@dataclass(frozen=True)
class _ResamplingOptions:
    """The options that `variations` and `class` share."""

    output: Output = Path("edited")
    seed: Seed = 0
    steps: Steps = None
    guidance_scale: GuidanceScale = None
    temperature: Temperature = None
    batch_size: BatchSize = 32
    model: Model = None
    device: Device = None
    dtype: Dtype = "float32"
    image_format: Format = "png"
    grid: Grid = True
    as_json: AsJson = False

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """Arguments of a call of the pipeline; None leaves a setting as the model has it."""
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "temperature": self.temperature,
        }


class _Results:
    """The files of a command: where they go, and what was written."""

    def __init__(self, action: str, sources: Sequence[Path], output: Path, image_format: str, grid: bool) -> None:
        self.stems = distinct_stems(sources)
        self.output, self.image_format, self.action = output, image_format, action
        self.sheet = output / sheet_name(action, self.stems) if grid else None
        self.images: list[dict[str, Any]] = []
        self.rows: dict[int, list[Image.Image]] = {}

    def path(self, source: int, name: str) -> Path:
        """The file of a result of source image number `source`."""
        return self.output / f"{self.stems[source]}-{name}.{self.image_format}"

    def begin(self, inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
        """Make the folder; OSError if a result would overwrite an input, or nothing can be written there."""
        check_inputs_stay([*outputs, *filter(None, [self.sheet])], inputs)
        make_output_folder(self.output)

    def save(self, source: int, image: Image.Image, path: Path, **values: Any) -> None:
        """Write one result; `values` describe it in the answer."""
        self.images.append({"file": save_image(image, path), **values})
        self.show(source, image)

    def show(self, source: int, image: Image.Image) -> None:
        """Put an image on the contact sheet, in the row of its source."""
        if source < _SHEET_ROWS:
            self.rows.setdefault(source, []).append(image)

    def answer(self, values: dict[str, Any], as_json: bool) -> None:
        """Write the contact sheet and print what was made."""
        if self.sheet is not None:
            columns = min(max(map(len, self.rows.values())), _SHEET_COLUMNS)
            shown = [image for row in self.rows.values() for image in row[:columns]]
            save_sheet(shown, self.sheet, columns)
        made = f"{len(self.images)} image{'s' if len(self.images) > 1 else ''}"
        answer_with_images("edited", made, self.output, self.sheet, {"images": self.images, **values}, as_json)


@shares_options(_ResamplingOptions)
def variations(
    images: Images,
    class_name: Annotated[str, typer.Option("--class", help="Name or number of the class of the images.")],
    num_images: NumImages = 4,
    strength: Strength = 0.4,
    *,
    options: _ResamplingOptions,
) -> None:
    """
    Make variations of images: a random share of their codes is resampled, given their class.

    The contact sheet has a row for each image, which begins with its reconstruction.

    **Example**

    `titok-hf edit variations pullover.png --class Pullover -n 8 --strength 0.5`
    """
    _resample("variations", images, [class_name], num_images, strength, options)


@shares_options(_ResamplingOptions)
def change_class(
    images: Images,
    class_names: Annotated[
        list[str], typer.Option("--class", help="Name or number of the new class; may be given several times.")
    ],
    num_images: NumImages = 1,
    strength: Strength = 0.7,
    *,
    options: _ResamplingOptions,
) -> None:
    """
    Change the class of images: a random share of their codes is resampled, given the new class.

    The contact sheet has a row for each image, which begins with its reconstruction.

    **Example**

    `titok-hf edit class pullover.png --class Coat --class Dress`
    """
    _resample("class", images, class_names, num_images, strength, options)


def inpaint(
    images: Images,
    masks: Annotated[
        list[Path],
        typer.Option(
            "--mask",
            help="Image file, black where the image is known and white where to fill it; one, or one for each IMAGE.",
            show_default=False,
        ),
    ],
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Name or number of the class of the images: begin with what the generator fills in, which is better.",
            show_default=False,
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Steps of the token optimisation.", show_default="150")
    ] = None,
    output: Output = Path("edited"),
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "float32",
    image_format: Format = "png",
    grid: Grid = True,
    as_json: AsJson = False,
) -> None:
    """
    Fill a region of images: codes are optimised until the known pixels are reproduced.

    It needs no generator, and no class. The contact sheet has a row for each image: with a grey hole, and filled.

    **Example**

    `titok-hf edit inpaint photo.png --mask hole.png --class Pullover`
    """
    check_images([*images, *masks])
    if len(masks) not in (1, len(images)):
        raise ValueError(f"There are {len(masks)} masks for {len(images)} images. Give one --mask, or one for each.")
    results = _Results("inpainted", images, output, image_format, grid)
    paths = [results.path(number, "inpainted") for number in range(len(images))]
    results.begin([*images, *masks], paths)
    load = load_pipeline if class_name is None else load_generator
    pipe = load(model, device, dtype)
    label = None if class_name is None else labels_of(pipe, [class_name])[0]
    from titok_hf.editing.token_optimization import TokenOptimization

    settings = TokenOptimization() if iterations is None else TokenOptimization(num_steps=iterations)
    chosen = [masks[number % len(masks)] for number in range(len(images))]
    made = _inpainted(pipe, images, chosen, label, settings, seed, batch_size)
    for number, (given, image) in enumerate(made):
        results.show(number, given)
        results.save(number, image, paths[number], original=images[number], mask=chosen[number])
    results.answer({"model": model_name(model), "seed": seed, "iterations": settings.num_steps}, as_json)


def _inpainted(
    pipe: TiTokPipeline,
    images: list[Path],
    masks: list[Path],
    label: int | None,
    settings: TokenOptimization,
    seed: int,
    batch_size: int,
) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Each image with a grey hole and filled, batch by batch; a progress bar counts the steps."""
    with progress_bar() as bar:
        task = bar.add_task("optimising", total=settings.num_steps * len(images))
        for batch in batches(range(len(images)), batch_size):

            def advance(pipe: TiTokPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> None:
                bar.advance(task, len(batch))  # noqa: B023 - called within this turn of the loop only

            pixel_values, holes = pipe.images_with_masks(
                [images[number] for number in batch], [masks[number] for number in batch]
            )
            given = pipe.image_processor.post_process(pixel_values.masked_fill(holes, 0.5))
            generators = [_generator(seed, number, 0) for number in batch]
            filled = pipe.inpaint(
                pixel_values, holes, label, settings, generators, callback_on_step_end=advance
            ).images
            yield from zip(given, filled, strict=True)


def interpolate(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Image file to begin with.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Image file to end with.", show_default=False)],
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=2, help="Images, the two ends included.")] = 8,
    space: Annotated[
        Literal["latents", "codes"],
        typer.Option(help="Decode the mixed latents, or the nearest codes, which VQ models alone have."),
    ] = "latents",
    output: Output = Path("edited"),
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "float32",
    image_format: Format = "png",
    grid: Grid = True,
    as_json: AsJson = False,
) -> None:
    """
    Make the images between two images: their latents are mixed in equal steps, and decoded.

    **Example**

    `titok-hf edit interpolate sneaker.png boot.png -n 10`
    """
    check_images([first, second])
    stems = distinct_stems([first, second])
    results = _Results("interpolated", [Path("-".join(stems))], output, image_format, grid)
    paths = [results.path(0, f"{number:03d}") for number in range(num_images)]
    results.begin([first, second], paths)
    pipe = load_pipeline(model, device, dtype)
    made = pipe.interpolate(str(first), str(second), num_images, space)
    for number, (image, path) in enumerate(zip(made, paths, strict=True)):
        results.save(0, image, path, weight=number / (num_images - 1))
    results.answer({"first": first, "second": second, "space": space, "model": model_name(model)}, as_json)


def _resample(
    action: str,
    images: list[Path],
    class_names: list[str],
    num_images: int,
    strength: float,
    options: _ResamplingOptions,
) -> None:
    """Resample a share of the codes of each image for each class; `action` names the contact sheet."""
    results = _Results(action, images, options.output, options.image_format, options.grid)
    check_images(images)
    pipe = load_generator(options.model, options.device, options.dtype)
    labels = labels_of(pipe, class_names)
    names = {label: pipe.id2label.get(label, str(label)).split(",")[0].strip() for label in labels}
    samples = [
        (source, label, index) for source in range(len(images)) for label in labels for index in range(num_images)
    ]
    paths = [results.path(source, f"{file_name_of(names[label])}-{index:03d}") for source, label, index in samples]
    results.begin(images, paths)
    shown = range(min(len(images), _SHEET_ROWS))
    for rows in batches(shown, options.batch_size):
        for source, image in zip(rows, pipe.reconstruct([images[source] for source in rows]), strict=True):
            results.show(source, image)
    for batch in batches_with_progress(list(zip(samples, paths, strict=True)), options.batch_size, "sampling"):
        made = pipe.variations(
            [images[source] for (source, _, _), _ in batch],
            [label for (_, label, _), _ in batch],
            strength,
            generator=[_generator(options.seed, source, index) for (source, _, index), _ in batch],
            **options.sampler_settings,
        ).images
        for ((source, label, index), path), image in zip(batch, made, strict=True):
            values = {"original": images[source], "label": label, "class": names[label], "index": index}
            results.save(source, image, path, **values)
    described = {"model": model_name(options.model), "seed": options.seed, "strength": strength}
    results.answer(described, options.as_json)


def _generator(seed: int, source: int, index: int) -> torch.Generator:
    """The random numbers of result number `index` of an image, whatever else is made beside it."""
    from titok_hf.evaluation.evaluate_generation import image_generator

    return image_generator(seed, source, index)


for name, command in (
    ("variations", variations),
    ("class", change_class),
    ("inpaint", inpaint),
    ("interpolate", interpolate),
):
    app.command(name)(report_errors(command))

__all__ = ["app"]
