"""`titok-hf evaluate rate` and `token-map`: quality at the size of the codes, and what each token draws."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..checkpoints.atomic_files import write_atomically
from ..extras import check_extra
from .console import answer, bold, progress_bar
from .evaluate_models import CropOption, Data, Lossy, ModelArgument, Network, model_identity
from .images import check_can_be_written, make_output_folder, save_sheet
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, with_bundled

if TYPE_CHECKING:
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.rate import Codec, RatePoint
    from titok_hf.pipeline_titok import TiTokPipeline

_MAP_COLUMNS = 8
_NumTokens = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help="A number of first tokens, for models trained with tail drop; may be repeated. By default powers of two "
        "up to all tokens.",
        show_default=False,
    ),
]
_Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Tokenizers or pipelines of one image size.",
        callback=with_bundled,
        show_default=False,
    ),
]
_Split = Annotated[str, typer.Option(help="Split of the images.")]


def rate(
    models: _Models,
    data: Data,
    network: Network = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the numbers and the plot.")] = Path("rate"),
    split: _Split = "test",
    num_images: Annotated[
        int, typer.Option("--num-images", "-n", min=2, help="Images, evenly spaced over the split.")
    ] = 1000,
    num_tokens: _NumTokens = None,
    crop: CropOption = "center",
    lossy: Lossy = False,
    batch_size: BatchSize = 50,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Plot the bits of an image against PSNR, SSIM and distance, for tokenizers beside JPEG and WebP.

    JPEG and WebP code the same images at the same size; theirs is the size of the whole file, its header included.
    A model trained with tail drop is measured with several numbers of tokens, and plotted over them.

    **Examples**

    `titok-hf evaluate rate titok-32 titok-64 titok-128 my-images --network my-classifier -o rate`

    `titok-hf evaluate rate my-tail-drop-model my-images --num-tokens 8 --num-tokens 16 --num-tokens 32`
    """
    check_extra("eval", "datasets", "matplotlib", "torchmetrics")
    make_output_folder(output)
    from titok_hf.evaluation.frechet import FrechetDistance
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.rate import QUALITIES, measure_rates, pillow_codec

    pipes = [load_pipeline(model, device) for model in models]
    sizes = {pipe.tokenizer.config.image_size for pipe in pipes}
    if len(sizes) > 1:
        raise ValueError(f"The models take images of {sorted(sizes)} pixels. Compare models of one image size.")
    codecs, lengths = _tokenizer_codecs(dict(zip(_distinct_names(models), pipes, strict=True)), num_tokens)
    codecs |= {f"{name} {quality}": pillow_codec(name, quality) for name in ("JPEG", "WebP") for quality in QUALITIES}
    distance = None if network is None else FrechetDistance(network, pipes[0].device)
    source = EvaluationImages(data, split, sizes.pop(), crop, num_images, lossy)
    images = source.read(range(len(source)))[0]
    with progress_bar() as bar:
        task = bar.add_task("images", total=len(images) * len(codecs))
        points = measure_rates(images, codecs, distance, batch_size, lambda count: bar.advance(task, count))
    convention = {
        "models": [model_identity(*each) for each in zip(pipes, models, strict=True)],
        "images": _named(source),
        "image_size": images.shape[-1],
        "bits": "codes of equal length; whole files of JPEG and WebP with their headers",
        "network": None if distance is None else distance.network.name,
        "pillow": _pillow_version(),
    }
    _answer_with_plots(points, lengths, convention, output, as_json)


def _answer_with_plots(
    points: list[RatePoint],
    lengths: dict[str, tuple[str, int]],
    convention: dict[str, Any],
    output: Path,
    as_json: bool,
) -> None:
    """Write the plots and `rate.json` into the folder, and print the numbers; `lengths` as of `_tokenizer_codecs`."""
    plots = {"plot": _draw(points, output / "rate.png", lengths)}
    if len({name for name, _ in lengths.values()}) < len(lengths):
        plots["plot_of_tokens"] = _draw(points, output / "tokens.png", lengths, over_tokens=True)
    values: dict[str, Any] = {
        "points": [asdict(point) | {"num_tokens": lengths.get(point.codec, ("", None))[1]} for point in points],
        "convention": convention,
        **plots,
    }
    text = json.dumps(values | {name: path.name for name, path in plots.items()}, indent=2)
    write_atomically(output / "rate.json", f"{text}\n".encode())
    lines = [escape(f"{name.replace('_', ' ')}: {value}") for name, value in convention.items() if value is not None]
    paths = [f"{name.replace('_', ' ')}: {bold(path)}" for name, path in plots.items()]
    answer(values, as_json, _table(points), *paths, *lines)


def token_map(
    model: ModelArgument,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="The image of the maps.")] = Path("token-map.png"),
    split: _Split = "test",
    num_images: Annotated[
        int, typer.Option("--num-images", "-n", min=2, help="Images, evenly spaced over the split.")
    ] = 50,
    replacements: Annotated[int, typer.Option(min=1, help="Other images that each token is taken from.")] = 4,
    crop: CropOption = "center",
    lossy: Lossy = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what each token draws: a map of the pixels that change when it is replaced by that of another image.

    White is the largest change that this token makes; the table says how large the changes are.

    **Example**

    `titok-hf evaluate token-map my-tokenizer my-images -o token-map.png`
    """
    check_extra("eval", "datasets", "torchmetrics")
    check_can_be_written(output)
    pipe = load_pipeline(model, device)
    from PIL import Image

    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.rate import covered_area, token_influence

    source = EvaluationImages(data, split, pipe.tokenizer.config.image_size, crop, num_images, lossy)
    images = source.read(range(len(source)))[0]
    with progress_bar() as bar:
        task = bar.add_task("tokens", total=pipe.tokenizer.config.num_latent_tokens)
        maps = token_influence(pipe.tokenizer, images, replacements, lambda count: bar.advance(task, count))
    scaled = (255 * maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)).round().byte().numpy()
    columns = min(len(maps), _MAP_COLUMNS)
    labels = [str(first) for first in range(0, len(maps), columns)]
    save_sheet([Image.fromarray(each) for each in scaled], output, columns, labels)
    influences, areas = maps.mean(dim=(1, 2)).tolist(), covered_area(maps).tolist()
    table = Table()
    for name in ("token", "mean change of a pixel", "area"):
        table.add_column(name, justify="right")
    for position, (influence, area) in enumerate(zip(influences, areas, strict=True)):
        table.add_row(str(position), f"{influence:.4f}", f"{area:.0%}")
    values = {
        "tokens": [{"influence": influence, "area": area} for influence, area in zip(influences, areas, strict=True)],
        "image": output,
        "convention": {
            "model": model_identity(pipe, model),
            "images": _named(source),
            "replacements": replacements,
        },
    }
    answer(values, as_json, table, f"maps: {bold(output)}")


def _tokenizer_codecs(
    pipes: dict[str, TiTokPipeline], num_tokens: list[int] | None
) -> tuple[dict[str, Codec], dict[str, tuple[str, int]]]:
    """
    The codecs of tokenizers by name, with tail drop one for each number of tokens, and each one's model and number.

    Raises:
        ValueError: KL models, or a number of tokens that a model with tail drop, or none of the models, can decode.
    """
    from titok_hf.evaluation.rate import lengths_of, tokenizer_codec

    if num_tokens and not any(pipe.tokenizer.config.tail_drop for pipe in pipes.values()):
        next(iter(pipes.values())).tokenizer.config.checked_num_tokens(min(num_tokens))
    codecs, lengths = {}, {}
    for name, pipe in pipes.items():
        config = pipe.tokenizer.config
        for length in sorted(set(num_tokens)) if num_tokens and config.tail_drop else lengths_of(config):
            codec = f"{name}, {length} token{'s' if length > 1 else ''}" if config.tail_drop else name
            codecs[codec], lengths[codec] = tokenizer_codec(pipe, length), (name, length)
    return codecs, lengths


def _named(images: EvaluationImages) -> str:
    return f"{len(images)} of {images.name}, split {images.split}, evenly spaced, crop {images.crop}"


def _distinct_names(models: list[str]) -> list[str]:
    """What the models are called in the plot: with the name of the folder above, if that tells them apart."""
    names = [model_name(model) for model in models]
    if len(set(names)) < len(names):
        names = ["/".join(Path(model).resolve().parts[-2:]) if Path(model).exists() else model for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"Two of the models are called alike: {', '.join(names)}. Name each model once.")
    return names


def _pillow_version() -> str:
    import PIL

    return PIL.__version__


def _draw(points: list[RatePoint], path: Path, lengths: dict[str, tuple[str, int]], over_tokens: bool = False) -> Path:
    """
    Quality over bits: a line for JPEG, for WebP and for each model; or over the number of tokens, of models only.

    Args:
        lengths: model and number of tokens, by the codecs that are tokenizers.
    """
    from titok_hf.evaluation.plots import Panel, draw_panels

    groups: dict[str, list[RatePoint]] = {}
    for point in points:
        if point.codec in lengths:
            groups.setdefault(lengths[point.codec][0], []).append(point)
        elif not over_tokens:
            groups.setdefault(point.codec.rpartition(" ")[0], []).append(point)
    label_of_x = "tokens per image" if over_tokens else "bits per image"

    def x_of(point: RatePoint) -> float:
        return lengths[point.codec][1] if over_tokens else point.bits_per_image

    panels = []
    for name, label in (("psnr", "PSNR (dB)"), ("ssim", "SSIM"), ("frechet_distance", "Fréchet distance")):
        if any(getattr(point, name) is None for point in points):
            continue
        lines = {
            codec: ([x_of(point) for point in group], [getattr(point, name) for point in group])
            for codec, group in groups.items()
        }
        panels.append(Panel(label_of_x, label, lines, logarithmic=True))
    return draw_panels(panels, path)


def _table(points: list[RatePoint]) -> Table:
    table = Table()
    table.add_column("codec")
    for name in ("bits/image", "PSNR", "SSIM", "Fréchet distance"):
        table.add_column(name, justify="right")
    for point in points:
        distance = "" if point.frechet_distance is None else f"{point.frechet_distance:.3f}"
        cells = f"{point.bits_per_image:,.0f}", f"{point.psnr:.2f} dB", f"{point.ssim:.4f}", distance
        table.add_row(escape(point.codec), *cells)
    return table


__all__ = ["rate", "token_map"]
