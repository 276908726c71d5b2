"""How well a tokenizer reconstructs the images of a data set: rFID, PSNR, SSIM, LPIPS, codebook usage and others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from titok_hf.accepted_values import check_finite
from titok_hf.contact_sheets import paired_contact_sheet
from titok_hf.devices import device_name

from .chunks import Arrays, ChunkFolder, Progress
from .features import FeatureNetwork, FeatureSet, features_from_arrays, features_to_arrays, few_images, set_metrics
from .frechet import round_to_bytes
from .images import EvaluationImages, to_pil
from .npz import NpzFile, check_reference, reference_convention
from .numbers import Convention, Report
from .reconstruction import (
    CodebookUsage,
    center_crop,
    count_codes,
    peak_signal_to_noise_ratio,
    structural_similarity,
)

if TYPE_CHECKING:
    from titok_hf.pipeline_titok import TiTokPipeline

_PAIRS_SHOWN = 16
_COLUMNS = 8


@dataclass
class Measures:
    """
    What an evaluation measures with.

    Args:
        network: of the Fréchet distance; None leaves it out.
        lpips: the network of LPIPS by its name ("vgg"), called with two images in [0, 1]; None leaves it out.
    """

    network: FeatureNetwork | None = None
    lpips: tuple[str, nn.Module] | None = None


@torch.inference_mode()
def reconstruct(
    pipeline: TiTokPipeline, images: torch.Tensor, numbers: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images through the tokenizer and back.

    Args:
        images: uint8, shape (batch, 3, height, width), of the model's size.
        numbers: of the images, which decide the noise of a KL model's tokens; by default from 0.
    Returns:
        reconstructions, uint8, the same shape, rounded as in the published evaluation; codes, int64, shape
        (batch, num_latent_tokens), None for KL models.
    Raises:
        ValueError: the model gives tokens or pixels that are not finite, or no pixels.
    """
    tokenizer = pipeline.tokenizer
    generators = [torch.Generator().manual_seed(number) for number in numbers or range(len(images))]
    pixel_values = (images.float() / 255).to(tokenizer.device, tokenizer.dtype)
    encoded = tokenizer.encode(pixel_values, return_dict=True, sample_posterior=True, generator=generators)
    check_finite(encoded.latents.isfinite().all(), "The tokens of the encoder")
    tokens = {"latents": encoded.latents} if encoded.codes is None else {"codes": encoded.codes}
    decoded = tokenizer.decode(**tokens, return_dict=True).pixel_values
    if decoded is None:
        raise ValueError("This is a stage-1 tokenizer: it ends in proxy codes, not pixels. Use a stage-2 model.")
    check_finite(decoded.isfinite().all(), "The pixels of the decoder")
    return round_to_bytes(decoded).cpu(), encoded.codes


def evaluate_reconstruction(
    pipeline: TiTokPipeline,
    data: EvaluationImages,
    measures: Measures,
    folder: ChunkFolder,
    training_statistics: NpzFile | None = None,
    progress: Progress = lambda count: None,
) -> tuple[Report, dict[str, Image.Image]] | None:
    """
    Measures a tokenizer on all images of a data set.

    Args:
        pipeline: of which the tokenizer is used.
        data: the images, of the tokenizer's size.
        measures: the networks of the metrics.
        folder: of the intermediate results, shared by all processes.
        training_statistics: a reference for the distances in place of the images that are reconstructed. The result
            is then no rFID in the published sense, and its convention says so.
    Returns:
        the numbers, by class in `details`, and contact sheets of the worst and of the median reconstructions by PSNR,
        originals above; None in all processes but the first.
    Raises:
        ValueError: the model gives values that are not finite, or a reference of another size.
    """
    if training_statistics is not None:
        if measures.network is None:
            raise ValueError(f"{training_statistics.path} is for a distance, which needs a network. Name one.")
        check_reference(training_statistics, (data.image_size, data.image_size), "images", measures.network)
        if not measures.network.is_inception:
            raise ValueError(
                f"The statistics in {training_statistics.path} are those of Inception, and the network is another one "
                f"({measures.network.name}). Name the Inception weights as the network, or leave the reference out."
            )
    inside = data.size_inside_padding()

    def work(numbers: range) -> Arrays:
        return _measured(pipeline, data, measures, numbers, inside)

    folder.compute("reconstruction", work, progress)
    if folder.processes.rank:
        return None
    per_image, sets, seconds = _read(folder, pipeline.tokenizer.config.codebook_size)
    values = _distances(sets, measures.network, training_statistics)
    values |= {name: float(column.mean()) for name, column in per_image.items() if name not in ("codes", "labels")}
    values |= _usage(per_image.get("codes"))
    values["images_per_second"] = len(data) / seconds
    details = {} if data.label_names is None else {"by_class": _by_class(per_image, data.label_names)}
    order = np.argsort(per_image["psnr"], kind="stable")
    middle = max(0, len(order) // 2 - _PAIRS_SHOWN // 2)
    shown = {"worst": order[:_PAIRS_SHOWN], "median": order[middle : middle + _PAIRS_SHOWN]}
    sheets = {name: _sheet(pipeline, data, chosen.tolist()) for name, chosen in shown.items()}
    convention = _convention(data, measures.network, training_statistics, pipeline.device)
    warnings = few_images(sets[1])
    return Report(values, convention, details=details, warnings=warnings), sheets


def _measured(
    pipeline: TiTokPipeline,
    data: EvaluationImages,
    measures: Measures,
    numbers: range,
    inside: tuple[int, int] | None,
) -> Arrays:
    """What is kept of a chunk: features, numbers of each image, codes, labels and the seconds of the model."""
    images, labels = data.read(numbers)
    start = time.perf_counter()
    reconstructions, codes = reconstruct(pipeline, images, numbers)
    arrays: Arrays = {"seconds": np.array(time.perf_counter() - start)}
    real, made = images.float() / 255, reconstructions.float() / 255
    columns = {
        "psnr": peak_signal_to_noise_ratio(made, real),
        "ssim": structural_similarity(made, real),
        "l1": (made - real).abs().flatten(1).mean(dim=1),
        "mse": (made - real).square().flatten(1).mean(dim=1),
    }
    if inside is not None:
        pair = center_crop(made, *inside), center_crop(real, *inside)
        columns["psnr_inside_padding"] = peak_signal_to_noise_ratio(*pair)
        columns["ssim_inside_padding"] = structural_similarity(*pair)
    if measures.lpips is not None:
        name, lpips = measures.lpips
        device = next(lpips.parameters()).device
        with torch.no_grad():
            columns[f"lpips_{name}"] = lpips(made.to(device), real.to(device), normalize=True).flatten()
    if measures.network is not None:
        arrays |= features_to_arrays(measures.network(images), "real_")
        arrays |= features_to_arrays(measures.network(reconstructions), "made_")
        if labels is not None and data.label_names is not None and measures.network.knows(data.label_names):
            columns["accuracy_on_originals"] = (measures.network.classify(images) == labels).float()
            columns["accuracy"] = (measures.network.classify(reconstructions) == labels).float()
    arrays |= {f"image_{name}": column.double().cpu().numpy() for name, column in columns.items()}
    if codes is not None:
        arrays["image_codes"] = codes.cpu().numpy()
    if labels is not None:
        arrays["image_labels"] = labels.numpy()
    return arrays


def _read(folder: ChunkFolder, codebook_size: int) -> tuple[dict[str, np.ndarray], list[FeatureSet], float]:
    """The columns of all images (of codes, how often each occurs), the two sets of features, the model's seconds."""
    columns: dict[str, list[np.ndarray]] = {}
    sets = [FeatureSet(keep_pooled=False, score_block=None) for _ in range(2)]
    histogram, seconds = torch.zeros(codebook_size, dtype=torch.int64), 0.0
    for arrays in folder.read("reconstruction"):
        seconds += float(arrays["seconds"])
        for prefix, features in zip(("real_", "made_"), sets, strict=True):
            found = features_from_arrays(arrays, prefix)
            if found is not None:
                features.update(found)
        if "image_codes" in arrays:
            histogram += count_codes(torch.from_numpy(arrays.pop("image_codes")), codebook_size)
        for name, array in arrays.items():
            if name.startswith("image_"):
                columns.setdefault(name.removeprefix("image_"), []).append(array)
    joined = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    if histogram.any():
        joined["codes"] = histogram.numpy()
    return joined, sets, seconds


def _distances(
    sets: list[FeatureSet], network: FeatureNetwork | None, training_statistics: NpzFile | None
) -> dict[str, float]:
    if network is None:
        return {}
    real, made = sets
    stored = None if training_statistics is None else training_statistics.statistics()
    name = "rfid" if stored is None and network.is_inception else network.distance_name
    values = set_metrics(made, real, stored, name)
    values.pop("inception_score_std", None)  # of one block
    return values


def _usage(histogram: np.ndarray | None) -> dict[str, float]:
    if histogram is None:
        return {}
    usage = CodebookUsage.from_histogram(torch.from_numpy(histogram))
    return {
        "codes_used": usage.num_used,
        "codebook_usage": usage.share_used,
        "codebook_perplexity": usage.perplexity,
        "codebook_entropy": float(np.log2(usage.perplexity)),
    }


def _by_class(per_image: dict[str, np.ndarray], names: list[str]) -> dict[str, dict[str, float]]:
    """The mean of each column over the images of each class that occurs."""
    labels = per_image["labels"]
    table: dict[str, dict[str, float]] = {}
    for label, name in enumerate(names):
        rows = labels == label
        if rows.any():
            means = {
                column: float(values[rows].mean())
                for column, values in per_image.items()
                if column not in ("codes", "labels")
            }
            table[name] = {"num_images": int(rows.sum()), **means}
    return table


def _sheet(pipeline: TiTokPipeline, data: EvaluationImages, numbers: list[int]) -> Image.Image:
    """Rows of originals, each above the row of their reconstructions."""
    images, _ = data.read(numbers)
    reconstructions, _ = reconstruct(pipeline, images, numbers)
    return paired_contact_sheet(to_pil(images), to_pil(reconstructions), _COLUMNS)


def _convention(
    data: EvaluationImages,
    network: FeatureNetwork | None,
    training_statistics: NpzFile | None,
    device: torch.device,
) -> Convention:
    reference: dict[str, Any] = {"reference": data.name, "num_reference_images": len(data)}
    if training_statistics is not None:
        reference = reference_convention(training_statistics, network)
        reference["reference"] += " (training statistics)"
    return Convention(
        network=None if network is None else network.name,
        resize=None if network is None else network.resize,
        rounding="round",
        crop=data.crop,
        split=data.split,
        image_size=(data.image_size, data.image_size),
        num_images=len(data),
        order="all in one block",
        device=device_name(device),
        **reference,
    )


def open_training_statistics(path: Path | None, is_asked_for: bool) -> NpzFile | None:
    """
    A reference file for the distances of reconstructions, if one is named.

    Raises:
        ValueError: it was named without saying that it holds the statistics of training images; or it holds none.
    """
    if path is None:
        return None
    file = NpzFile.open(path)
    if not is_asked_for:
        raise ValueError(
            f"rFID compares reconstructions with the images that were reconstructed, and {path} is a reference for "
            "generated images: statistics of training images. Leave --reference out, or add --training-statistics to "
            "compute this other number."
        )
    if not file.has_statistics:
        raise ValueError(f"{path} holds no statistics. Give a file with mu, sigma, mu_s and sigma_s.")
    return file


__all__ = [
    "Measures",
    "evaluate_reconstruction",
    "open_training_statistics",
    "reconstruct",
]
