"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..bundled import DEFAULT_CHECKPOINT, bundled_checkpoint


def with_bundled(models: str | list[str] | None) -> str | list[str] | None:
    """Models as users name them. The name of the bundled one becomes its folder, unless a path here has that name."""
    if isinstance(models, list):
        return [str(with_bundled(model)) for model in models]
    is_bundled = models == DEFAULT_CHECKPOINT and not Path(models).exists()
    return str(bundled_checkpoint()) if is_bundled else models


Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", help="Image files of any size and common format.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A folder or a Hub id. By default the model that comes with titok-hf, titok-fashion-32.",
        callback=with_bundled,
        show_default=False,
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A folder or a Hub id. By default the model that comes with titok-hf.",
        callback=with_bundled,
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help='Where to compute: "cpu", "cuda", "cuda:1", "mps". By default a GPU if there is one.'
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help=(
            "For a model that `titok-hf export` wrote: onnx, openvino or executorch, with a precision where wanted "
            "(onnx:int8). By default the first one that the folder has."
        ),
        show_default=False,
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images computed at once; fewer need less memory.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Revision = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit on the Hub. By default main.", show_default=False),
]
Variant = Annotated[
    str | None,
    typer.Option("--variant", metavar="NAME", help='Weights of a variant only, such as "fp16".', show_default=False),
]
NumTokens = Annotated[
    int | None,
    typer.Option(
        "--num-tokens",
        min=1,
        help="Keep the first tokens of each image only; for models trained with tail drop. By default all.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same images.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Sampling steps. By default the number saved with the model.")
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        min=0,
        help="How closely to follow the class; 1 is no guidance. By default the value saved with the model.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0, help="How random the choice of codes is. By default the value saved with the model."
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="Precision of weights and computation. Half precision is for accelerators."),
]
Format = Annotated[
    Literal["png", "webp", "jpg"],
    typer.Option(
        "--format", help="Format of the image files. PNG and WebP keep every pixel; JPEG (quality 95) does not."
    ),
]
Grid = Annotated[
    bool, typer.Option("--grid/--no-grid", help="Whether to write a contact sheet of the images too, a PNG file.")
]
