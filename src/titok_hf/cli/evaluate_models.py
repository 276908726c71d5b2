"""`titok-hf evaluate reconstruction` and `evaluate generation`: a model measured."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from ..checkpoints.atomic_files import write_atomically
from ..extras import check_extra
from .console import as_json_text, messages, progress_bar
from .generate import load_generator
from .images import make_output_folder, save_image
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, GuidanceScale, Seed, Steps, Temperature, with_bundled

if TYPE_CHECKING:
    from PIL.Image import Image

    from titok_hf.evaluation.chunks import ChunkFolder, Processes
    from titok_hf.evaluation.evaluate_generation import GenerationPlan
    from titok_hf.evaluation.features import FeatureNetwork
    from titok_hf.evaluation.numbers import Report
    from titok_hf.pipeline_titok import TiTokPipeline

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder or Hub id of a model, or titok-fashion-32, which comes with titok-hf.",
        callback=with_bundled,
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of images, Parquet files, webdataset shards or the id of a Hub data set.",
        show_default=False,
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="The network of the Fréchet distance: the file of Inception weights of torch-fidelity for FID, or a "
        "folder or Hub id of an image classifier for a distance of its features.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for the numbers and images. A run that was stopped is resumed from there.",
        show_default=False,
    ),
]
CropOption = Annotated[
    Literal["center", "adm", "pad"],
    typer.Option(help="The published evaluation crop, ADM's, or black margins around smaller images."),
]
Lossy = Annotated[
    bool, typer.Option("--lossy", help="Accept JPEG files of the model's size, which were compressed after the crop.")
]
Lpips = Annotated[
    Literal["vgg", "alex", "squeeze"] | None,
    typer.Option("--lpips", help="Measure LPIPS with this network of torchvision.", show_default=False),
]
Statistics = Annotated[
    Path | None,
    typer.Option(help="An npz file with other statistics to compare with; not for rFID.", show_default=False),
]
TrainingStatistics = Annotated[
    bool, typer.Option("--training-statistics", help="Say that --reference is of training images.")
]
Rounding = Annotated[
    Literal["truncate", "round"], typer.Option(help="How values become 8 bits; the published samples are truncated.")
]
Keep = Annotated[
    Literal["npz", "parquet"] | None,
    typer.Option(help="Keep the images in --output, in the layout of ADM or as a data set.", show_default=False),
]
NumGenerated = Annotated[int, typer.Option("--num-images", "-n", min=2, help="Images of all classes together.")]
GeneratedReference = Annotated[
    str | None,
    typer.Option(
        help="What the images are compared with: an npz file of ADM (images or statistics), or a data set.",
        show_default=False,
    ),
]
TrainingData = Annotated[
    str | None,
    typer.Option(
        help="The training images, to see whether generated images repeat them. --reference has to be a data set.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=2, help="Use only so many images, evenly from the whole split.")
]


def reconstruction(
    model: ModelArgument,
    data: Data,
    split: Annotated[str, typer.Option(help="Split of the data set; ImageNet's is validation.")] = "test",
    crop: CropOption = "center",
    network: Network = None,
    lpips: Lpips = None,
    reference: Statistics = None,
    training_statistics: TrainingStatistics = False,
    lossy: Lossy = False,
    limit: Limit = None,
    output: Folder = None,
    batch_size: BatchSize = 50,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Measure how well a tokenizer reconstructs images: rFID, Inception score, PSNR, SSIM, LPIPS, codebook usage.

    For several GPUs: `torchrun --nproc-per-node 8 -m titok_hf.cli evaluate reconstruction MODEL DATA -o FOLDER`.

    **Example**

    `titok-hf evaluate reconstruction user/titok imagenet --split validation --network inception.pth -o results`
    """
    check_extra("eval", "datasets", "torchmetrics")
    from titok_hf.evaluation.evaluate_reconstruction import (
        Measures,
        evaluate_reconstruction,
        open_training_statistics,
    )
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.lpips import load_lpips

    statistics = open_training_statistics(reference, training_statistics)
    processes = _processes(device, output)
    pipeline = load_pipeline(model, str(processes.device))
    images = EvaluationImages(data, split, pipeline.tokenizer.config.image_size, crop, limit, lossy)
    lpips_network = None if lpips is None else (lpips, load_lpips(lpips).to(processes.device).eval())
    features = _network(network, processes)
    plan = {
        "command": "reconstruction",
        "model": model_identity(pipeline, model),
        "data": [images.name, split, crop],
        "network": None if features is None else features.name,
        "lpips": lpips,
        "reference": None if statistics is None else statistics.path.name,
    }
    with _work(output, plan, len(images), batch_size, processes, "reconstructing") as (folder, progress):
        measures = Measures(features, lpips_network)
        found = evaluate_reconstruction(pipeline, images, measures, folder, statistics, progress)
        if found is not None:
            _finish(found, plan, processes, folder, output, as_json)


def generation(
    model: ModelArgument,
    num_images: NumGenerated = 50_000,
    reference: GeneratedReference = None,
    split: Annotated[str, typer.Option(help="Split of a --reference that is a data set.")] = "test",
    crop: CropOption = "center",
    network: Network = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    rounding: Rounding = "truncate",
    keep: Keep = None,
    training_data: TrainingData = None,
    training_split: Annotated[str, typer.Option(help="Split of the training images.")] = "train",
    lossy: Lossy = False,
    output: Folder = None,
    batch_size: BatchSize = 50,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Generate images, equally many of each class, and measure them: FID, sFID, Inception score, precision, recall.

    Without a reference there are no distances. For several GPUs:
    `torchrun --nproc-per-node 8 -m titok_hf.cli evaluate generation MODEL -o FOLDER`.

    **Example**

    `titok-hf evaluate generation user/titok --reference VIRTUAL_imagenet256_labeled.npz --network inception.pth`
    """
    _check_generation(network, reference, keep, training_data, output)
    from titok_hf.evaluation.evaluate_generation import GenerationPlan, evaluate_generation
    from titok_hf.evaluation.features import FeatureNetwork

    processes = _processes(device, output)
    features = None if network is None else FeatureNetwork(network, processes.device)
    pipeline = load_generator(model, str(processes.device))
    settings = _given(num_inference_steps=steps, guidance_scale=guidance_scale, temperature=temperature)
    images = GenerationPlan(num_images, pipeline.classes.num_classes, seed, rounding, settings)
    size = pipeline.tokenizer.config.image_size
    compared_with = _reference(reference, split, size, crop, lossy)
    trained_on = _reference(training_data, training_split, size, crop, lossy)
    keeps_images = keep is not None or training_data is not None
    plan = {
        "command": "generation",
        "model": model_identity(pipeline, model),
        "seed": seed,
        "rounding": rounding,
        "sampler": _sampler(pipeline) | settings,
        "network": None if features is None else features.name,
        "keeps_images": keeps_images,
    }
    with _work(output, plan, num_images, batch_size, processes, "generating") as (folder, progress):
        found = evaluate_generation(
            pipeline, images, features, folder, compared_with, keeps_images, trained_on, progress
        )
        if found is not None:
            _keep_images(keep, folder, images, pipeline.id2label)
            _finish(found, plan, processes, folder, output, as_json)


def _given(**settings: float | None) -> dict[str, Any]:
    """The settings whose options were given."""
    return {name: value for name, value in settings.items() if value is not None}


def _sampler(pipeline: TiTokPipeline) -> dict[str, Any]:
    return {name: value for name, value in pipeline.scheduler.config.items() if name[0] != "_"}


def _check_generation(
    network: str | None, reference: str | None, keep: str | None, training_data: str | None, output: Path | None
) -> None:
    """ValueError if the options of `evaluate generation` contradict one another."""
    if keep is not None and output is None:
        raise ValueError("--keep needs a folder for the images. Name one with --output.")
    if training_data is not None and (reference is None or reference.endswith(".npz")):
        raise ValueError(
            "--training-data is compared with real images that were not trained on. Name their data set with "
            "--reference."
        )
    if network is None and (keep is None or reference is not None):
        from titok_hf.evaluation.inception import INCEPTION_URL

        raise ValueError(
            f"There is no network for the metrics. Download {INCEPTION_URL} and name the file with --network, or name "
            "an image classifier. To generate images alone, use --keep without --reference."
        )


def _keep_images(keep: str | None, folder: ChunkFolder, images: GenerationPlan, names: dict[int, str]) -> None:
    from titok_hf.evaluation.evaluate_generation import save_npz, save_parquet

    if keep == "npz":
        save_npz(folder, images, folder.folder / "images.npz")
    elif keep == "parquet":
        save_parquet(folder, images, folder.folder / "images.parquet", lambda label: names.get(label, str(label)))


def _reference(reference: str | None, split: str, size: int, crop: Any, lossy: bool) -> Any:
    """An npz file, or the images of a data set."""
    if reference is None or reference.endswith(".npz"):
        from titok_hf.evaluation.npz import NpzFile

        return None if reference is None else NpzFile.open(reference)
    check_extra("eval", "datasets")
    from titok_hf.evaluation.images import EvaluationImages

    return EvaluationImages(reference, split, size, crop, allow_lossy=lossy)


def _processes(device: str | None, output: Path | None) -> Processes:
    """Those of the launcher; ValueError if several have no folder to share."""
    from titok_hf.evaluation.chunks import Processes

    processes = Processes(device)
    if processes.count > 1 and output is None:
        raise ValueError("Several processes share their results in a folder. Name one with --output.")
    return processes


def _network(source: str | None, processes: Processes) -> FeatureNetwork | None:
    from titok_hf.evaluation.features import FeatureNetwork
    from titok_hf.evaluation.inception import INCEPTION_URL

    if source is not None:
        return FeatureNetwork(source, processes.device)
    if processes.rank == 0:
        messages.print(
            f"No FID: it needs the Inception weights. Download {escape(INCEPTION_URL)} and name the file with "
            "--network, or name an image classifier for a distance of its features.",
            soft_wrap=True,
        )
    return None


def model_identity(pipeline: TiTokPipeline, model: str | None) -> str:
    """The name of a model and the hash of its weights."""
    from titok_hf.evaluation.features import weights_digest

    parts = [part for part in (pipeline.tokenizer, pipeline.transformer) if part is not None]
    return f"{model_name(model)}, weights {' '.join(weights_digest(part) for part in parts)}"


@contextmanager
def _work(
    output: Path | None, plan: dict[str, Any], num_images: int, batch_size: int, processes: Processes, activity: str
) -> Iterator[tuple[Any, Any]]:
    """The folder of intermediate results, a temporary one if none is named, and what a progress bar is told."""
    from titok_hf.evaluation.chunks import ChunkFolder

    with tempfile.TemporaryDirectory() as temporary, progress_bar() as bar:
        if output is not None:
            make_output_folder(output)
        folder = ChunkFolder(output or Path(temporary), plan, num_images, batch_size, processes)
        total = sum(len(chunk) for chunk in folder.chunks[processes.rank :: processes.count])
        task = bar.add_task(activity, total=total, visible=processes.rank == 0)
        yield folder, lambda count: bar.advance(task, count)


def _finish(
    found: tuple[Report, dict[str, Image]],
    plan: dict[str, Any],
    processes: Processes,
    folder: ChunkFolder,
    output: Path | None,
    as_json: bool,
) -> None:
    """
    Print the report, write it into the folder with the command's settings and the versions, beside the images, and
    remove the intermediate results.
    """
    from dataclasses import replace
    from importlib.metadata import version

    from .. import __version__
    from ..devices import device_name
    from .evaluate import show

    report, sheets = found
    for name, sheet in sheets.items():
        save_image(sheet, folder.folder / f"{name}.png")
    conditions: dict[str, Any] = {
        "model": plan["model"],
        **{name: value for name, value in plan.items() if name in ("seed", "sampler")},
        "device": device_name(processes.device),
        "processes": processes.count,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "titok-hf": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "diffusers")},
        },
    }
    report = replace(report, conditions={**report.conditions, **conditions})
    if output is not None:
        write_atomically(output / "report.json", (as_json_text(report.as_dict()) + "\n").encode())
    show(report, None, as_json)
    folder.clear()


__all__ = ["generation", "reconstruction"]
