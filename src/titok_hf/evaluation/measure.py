"""Every number of a class-conditional model in one run: reconstruction, codebook, recognisability, memorisation."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from titok_hf import __version__
from titok_hf.accepted_values import check_finite
from titok_hf.contact_sheets import contact_sheet
from titok_hf.data.images import ResizeMode, image_batches
from titok_hf.data.training_data import class_names, open_images

from .classification import JudgeMeter
from .frechet import round_to_bytes
from .memorization import NearestNeighbors, find_nearest_neighbors, memorization_report
from .reconstruction import CodebookUsage, ReconstructionMeter, center_crop, count_codes

if TYPE_CHECKING:
    from titok_hf.pipeline_titok import TiTokPipeline

# What a contact sheet shows: enough to judge by eye, few enough to see each.
SHEET_ROWS = 10
SHEET_COLUMNS = 10


@dataclass
class MeasureConfig:
    """What to measure on.

    Args:
        data: source of the data set (`titok_hf.data.training_data.open_images`).
        resize_mode: how its images are brought to the model's size (`titok_hf.data.images.images_to_tensor`).
        train_split: the images that the generator was trained on.
        test_split: images that nothing was trained on.
        images_per_class: how many images to generate of each class.
        batch_size: images per forward pass.
        seed: seed of the generated images. Each image has a generator of its own, so that `batch_size` changes none.
    """

    data: str
    resize_mode: ResizeMode = "pad"
    train_split: str = "train"
    test_split: str = "test"
    images_per_class: int = 100
    batch_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images_per_class", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least 1.")


@dataclass
class Measurement:
    """The result: numbers for a model card, and pictures to look at by file name."""

    metrics: dict[str, Any]
    pictures: dict[str, Image.Image]


def measure(pipeline: TiTokPipeline, judge: PreTrainedModel, config: MeasureConfig) -> Measurement:
    """Measures a model on real test images and on images that it generates.

    Args:
        pipeline: the model; its classes have to be those of the data set.
        judge: a classifier of real images that took no part in training the model.
    Returns:
        metrics in the groups `reconstruction` (PSNR in decibel, SSIM; once more as `reconstruction_content` on the
        pixels inside the padding, if there is any), `codebook` (usage over the test set), `judge` (accuracies on
        `real`, `reconstructed` and `generated` images) and `memorization`; contact sheets.
    Raises:
        ValueError: model, judge and data set do not have the same classes.
    """
    test_set = open_images(config.data, config.test_split)
    names = class_names(test_set)
    _check_classes(pipeline, names)
    # As many test images as generated ones are kept; taken evenly, since a data set may be sorted by class.
    num_kept = min(config.images_per_class * len(names), len(test_set))
    kept = torch.linspace(0, len(test_set) - 1, num_kept, dtype=torch.float64, device="cpu").long()
    metrics, held_out, reconstructed = _measure_reconstruction(pipeline, judge, test_set, kept, config)
    generated, metrics["judge"]["generated"] = _measure_generation(pipeline, judge, names, config)
    groups = {"generated": generated, "held_out": held_out, "reconstructed": reconstructed}
    neighbors = _find_training_neighbors(groups, open_images(config.data, config.train_split), config)
    metrics["memorization"] = memorization_report(**neighbors)
    pictures = {
        "generated.png": _sheet_of_classes(generated, names, config.images_per_class),
        "reconstructed.png": _sheet_of_pairs(held_out, reconstructed, torch.arange(num_kept)),
        "nearest.png": _sheet_of_pairs(
            generated, neighbors["generated"].images, neighbors["generated"].distances[:, 0].argsort()
        ),
    }
    return Measurement(metrics, pictures)


@torch.inference_mode()
def reconstruct(pipeline: TiTokPipeline, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images through the tokenizer and back.

    Args:
        images: uint8, shape (batch, 3, height, width), of the model's size.
    Returns:
        reconstructions, uint8, the same shape, rounded as a saved picture is; codes, int64, shape
        (batch, num_latent_tokens).
    Raises:
        ValueError: the model gives tokens or pixels that are not finite.
    """
    tokenizer = pipeline.tokenizer
    encoded = tokenizer.encode((images.float() / 255).to(tokenizer.device, tokenizer.dtype), return_dict=True)
    check_finite(encoded.latents.isfinite().all(), "The tokens of the encoder")
    pixel_values = tokenizer.decode(codes=encoded.codes, return_dict=True).pixel_values
    check_finite(pixel_values.isfinite().all(), "The pixels of the decoder")
    return round_to_bytes(pixel_values).cpu(), encoded.codes


def generate(pipeline: TiTokPipeline, labels: torch.Tensor, config: MeasureConfig) -> Iterator[torch.Tensor]:
    """Images of the given classes with the model's default settings, batch by batch.

    Args:
        labels: int64, shape (images,).
    Yields:
        uint8, shape (batch, 3, height, width).
    """
    seeds = torch.randint(2**62, (len(labels),), generator=torch.Generator().manual_seed(config.seed))
    pipeline.set_progress_bar_config(disable=True)
    batches = list(zip(labels.split(config.batch_size), seeds.split(config.batch_size), strict=True))
    for batch_labels, batch_seeds in tqdm(batches, desc="generating"):
        generators = [torch.Generator().manual_seed(seed) for seed in batch_seeds.tolist()]
        yield round_to_bytes(pipeline(batch_labels.tolist(), generator=generators, output_type="pt").images).cpu()


def measured_with() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    libraries = ("torch", "transformers", "diffusers", "datasets", "torchmetrics")
    ours = {"titok-hf": __version__, "python": platform.python_version()}
    return ours | {library: version(library) for library in libraries}


def _measure_reconstruction(
    pipeline: TiTokPipeline, judge: PreTrainedModel, test_set: Dataset, kept: torch.Tensor, config: MeasureConfig
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The metrics over the test set; as uint8, its images at the positions `kept`, and their reconstructions."""
    names, model_config = class_names(test_set), pipeline.tokenizer.config
    whole, content = ReconstructionMeter(), ReconstructionMeter()
    judged = {"real": JudgeMeter(judge, names), "reconstructed": JudgeMeter(judge, names)}
    histogram = torch.zeros(model_config.codebook_size, dtype=torch.int64)
    width, height = test_set[0]["image"].size  # before padding
    originals, reconstructed = [], []
    start = 0
    batches = image_batches(test_set, model_config.image_size, config.resize_mode, config.batch_size)
    for images, labels in tqdm(batches, total=-(-len(test_set) // config.batch_size), desc="reconstructing"):
        reconstructions, codes = reconstruct(pipeline, images)
        histogram += count_codes(codes, model_config.codebook_size)
        positions = kept[(kept >= start) & (kept < start + len(images))] - start
        originals.append(images[positions])
        reconstructed.append(reconstructions[positions])
        start += len(images)
        real, made = images.float() / 255, reconstructions.float() / 255
        whole.update(made, real)
        if config.resize_mode == "pad":
            content.update(center_crop(made, height, width), center_crop(real, height, width))
        judged["real"].update(real, labels)
        judged["reconstructed"].update(made, labels)
    metrics: dict[str, Any] = {"reconstruction": {"num_images": whole.num_images, **whole.compute()}}
    if config.resize_mode == "pad":
        metrics["reconstruction_content"] = {"height": height, "width": width, **content.compute()}
    metrics["codebook"] = CodebookUsage.from_histogram(histogram).as_dict()
    metrics["judge"] = {name: meter.compute() for name, meter in judged.items()}
    return metrics, torch.cat(originals), torch.cat(reconstructed)


def _measure_generation(
    pipeline: TiTokPipeline, judge: PreTrainedModel, names: list[str], config: MeasureConfig
) -> tuple[torch.Tensor, dict[str, object]]:
    """Generated images as uint8, sorted by class, and what the judge says about them."""
    labels = torch.arange(len(names)).repeat_interleave(config.images_per_class)
    meter = JudgeMeter(judge, names)
    generated = list(generate(pipeline, labels, config))
    for images, batch_labels in zip(generated, labels.split(config.batch_size), strict=True):
        meter.update(images.float() / 255, batch_labels)
    return torch.cat(generated), meter.compute()


def _find_training_neighbors(
    groups: dict[str, torch.Tensor], train_set: Dataset, config: MeasureConfig
) -> dict[str, NearestNeighbors]:
    """The nearest training images of several groups of images, decoding the training set once."""
    queries = torch.cat(list(groups.values()))
    batches = image_batches(train_set, queries.shape[-1], config.resize_mode)
    total = -(-len(train_set) // 1000)
    found = find_nearest_neighbors(
        queries, (images for images, _ in tqdm(batches, total=total, desc="searching training images"))
    )
    sizes = [len(images) for images in groups.values()]
    parts = zip(found.distances.split(sizes), found.indices.split(sizes), found.images.split(sizes), strict=True)
    return {name: NearestNeighbors(*part) for name, part in zip(groups, parts, strict=True)}


def _check_classes(pipeline: TiTokPipeline, names: list[str]) -> None:
    id2label = pipeline.id2label
    known = [id2label[index] for index in sorted(id2label)]
    if known != names:
        raise ValueError(
            f"The model has the classes {', '.join(known)}; the data set has {', '.join(names)}. "
            "Measure a model on the data set that it was trained on."
        )


def _to_pictures(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def _sheet_of_classes(generated: torch.Tensor, names: list[str], images_per_class: int) -> Image.Image:
    """The first images of each class, a class a row."""
    columns = min(images_per_class, SHEET_COLUMNS)
    shown = generated.unflatten(0, (len(names), images_per_class))[:, :columns].flatten(0, 1)
    return contact_sheet(_to_pictures(shown), columns, labels=names)


def _sheet_of_pairs(left: torch.Tensor, right: torch.Tensor, order: torch.Tensor) -> Image.Image:
    """The first pairs of `order`, an even number of columns: each image of `left` followed by its mate of `right`."""
    shown = order[: SHEET_ROWS * SHEET_COLUMNS // 2]
    return contact_sheet(_to_pictures(torch.stack([left[shown], right[shown]], dim=1).flatten(0, 1)), SHEET_COLUMNS)


__all__ = ["MeasureConfig", "Measurement", "generate", "measure", "measured_with", "reconstruct"]
