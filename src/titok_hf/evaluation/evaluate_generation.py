"""
Images of a generator, and their published metrics: FID, sFID, Inception score, precision, recall.

Each image has a seed of its own and each class as many images. Neither the batch nor the number of processes changes
which random numbers an image is drawn from. Classes are in shuffled order, since the Inception score depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from titok_hf.accepted_values import check_finite
from titok_hf.contact_sheets import contact_sheet

from .adm import SCORE_BLOCK, Gaussian
from .chunks import Arrays, ChunkFolder, Progress
from .features import (
    DISTANCES,
    FeatureNetwork,
    FeatureSet,
    features_from_arrays,
    features_to_arrays,
    few_images,
    set_metrics,
)
from .frechet import round_to_bytes
from .npz import NpzFile, check_reference, reference_convention, reference_features
from .numbers import Convention, Report

if TYPE_CHECKING:
    from titok_hf.pipeline_titok import TiTokPipeline

    from .images import EvaluationImages

Rounding = Literal["truncate", "round"]
_Reference = tuple[FeatureSet | None, tuple[Gaussian, Gaussian] | None]  # features of its images, stored statistics
_SHOWN = 10  # rows and columns of the contact sheet
_COMPARED_WITH_TRAINING = 1_000  # generated images that are searched among the training images


@dataclass(frozen=True)
class GenerationPlan:
    """
    Which images are generated, and how.

    Args:
        num_images: of all classes together. Classes have equally many, or numbers that differ by one.
        num_classes: of the model.
        seed: of all images.
        rounding: how pixels become 8 bits. The original truncates the images that it samples.
        settings: of the sampler where they differ from those saved with the model: `num_inference_steps`,
            `guidance_scale`, `temperature`.
    Raises:
        ValueError: fewer than two images.
    """

    num_images: int
    num_classes: int
    seed: int = 0
    rounding: Rounding = "truncate"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_images < 2:
            raise ValueError(f"num_images is {self.num_images}. A distance needs at least two images.")

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have equally many images."""
        return self.num_images % self.num_classes == 0

    @property
    def labels(self) -> torch.Tensor:
        """The class of each image, in shuffled order, int64."""
        return self._order % self.num_classes

    @property
    def indices(self) -> torch.Tensor:
        """Which image of its class each image is, int64."""
        return self._order // self.num_classes

    @property
    def _order(self) -> torch.Tensor:
        return torch.randperm(self.num_images, generator=torch.Generator().manual_seed(self.seed), device="cpu")


def image_generator(seed: int, label: int, index: int) -> torch.Generator:
    """The random numbers of image number `index` of a class, whatever else is generated beside it."""
    state = np.random.SeedSequence((seed, label, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@torch.inference_mode()
def generate(pipeline: TiTokPipeline, labels: list[int], indices: list[int], plan: GenerationPlan) -> torch.Tensor:
    """
    Some images, computed at once.

    Args:
        labels, indices: the class of each image, and which image of its class it is.
        plan: gives seed, rounding and sampler settings.
    Returns:
        uint8, shape (batch, 3, height, width), on the CPU.
    Raises:
        ValueError: the model gives pixels that are not finite.
    """
    generators = [image_generator(plan.seed, label, index) for label, index in zip(labels, indices, strict=True)]
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(labels, generator=generators, output_type="pt", **plan.settings).images
    check_finite(images.isfinite().all(), "The pixels of the decoder")
    return (round_to_bytes(images) if plan.rounding == "round" else (images.clamp(0, 1) * 255).byte()).cpu()


def evaluate_generation(
    pipeline: TiTokPipeline,
    plan: GenerationPlan,
    network: FeatureNetwork | None,
    folder: ChunkFolder,
    reference: NpzFile | EvaluationImages | None = None,
    keeps_images: bool = False,
    training: EvaluationImages | None = None,
    progress: Progress = lambda count: None,
) -> tuple[Report, dict[str, Image.Image]] | None:
    """
    Generates images and measures them while they are generated.

    Args:
        pipeline: a generator with its tokenizer and sampler.
        plan: which images.
        network: of the metrics; None only generates.
        folder: of the intermediate results, shared by all processes; its images are those of the plan.
        reference: real images, or the statistics of their features.
        keeps_images: whether the folder keeps the images themselves, for `save_npz` and `save_parquet`.
        training: the images that the generator was trained on. Then the folder has to keep the generated images, and
            `details` say whether these repeat training images; the reference has to be a data set of other images.
    Returns:
        the numbers; and contact sheets, `generated` of the first images of the first classes and, with `training`,
        `nearest` of the generated images nearest to a training image, each beside it. None in all processes but the
        first.
    Raises:
        ValueError: the model gives values that are not finite, or the reference has another size.
    """
    size = pipeline.tokenizer.config.image_size
    if isinstance(reference, NpzFile):
        check_reference(reference, (size, size), "generated images", network)
    labels, indices = plan.labels.tolist(), plan.indices.tolist()
    names = [pipeline.id2label.get(label, str(label)) for label in range(plan.num_classes)]
    knows_classes = network is not None and network.knows(names)

    def work(numbers: range) -> Arrays:
        own = labels[numbers.start : numbers.stop]
        images = generate(pipeline, own, indices[numbers.start : numbers.stop], plan)
        arrays: Arrays = {"images": images.numpy()} if keeps_images else {}
        if network is not None:
            arrays |= features_to_arrays(network(images), "made_")
            if knows_classes:
                arrays["hits"] = (network.classify(images) == torch.tensor(own)).numpy()
        return arrays

    real, stored = _reference_features(reference, network, folder)  # first: what is wrong with it is said at once
    folder.compute("generation", work, progress)
    if folder.processes.rank:
        return None
    values, details, warnings = _measure(folder, plan, network, (real, stored), names)
    sheets = {"generated": _sheet(pipeline, plan)}
    if training is not None and reference is not None and not isinstance(reference, NpzFile):
        from .memorization import measure_memorization  # needs the extra `eval`

        kept = (image for chunk in kept_images(folder) for image in chunk)
        images = torch.from_numpy(np.stack(list(islice(kept, _COMPARED_WITH_TRAINING)))).permute(0, 3, 1, 2)
        details["memorization"], sheets["nearest"] = measure_memorization(pipeline, images, reference, training)
    convention = _convention(plan, network, reference, size)
    return Report(values, convention, details=details, warnings=warnings), sheets


def _measure(
    folder: ChunkFolder, plan: GenerationPlan, network: FeatureNetwork | None, reference: _Reference, names: list[str]
) -> tuple[dict[str, float], dict[str, Any], tuple[str, ...]]:
    """The metrics of the chunks of generated images, the accuracy of each class, and warnings."""
    made = FeatureSet(keep_pooled=reference[0] is not None)  # for precision and recall
    if network is None:
        return {}, {}, few_images(made, reference[0])
    hits = []
    for arrays in folder.read("generation"):
        features = features_from_arrays(arrays, "made_")
        assert features is not None
        made.update(features)
        hits.append(arrays.get("hits", np.zeros(0, bool)))
    values = set_metrics(made, *reference, network.distance_name, network.device)
    details: dict[str, Any] = {}
    if network.knows(names):
        all_hits, labels = np.concatenate(hits), plan.labels.numpy()
        values["accuracy"] = float(all_hits.mean())
        details["by_class"] = {
            name: {"accuracy": float(all_hits[labels == label].mean())}
            for label, name in enumerate(names)
            if (labels == label).any()
        }
    warnings = few_images(made, reference[0])
    if not plan.is_balanced:
        warnings += (
            f"{plan.num_images} images are no multiple of {plan.num_classes} classes, so some classes have one image "
            "more than others. Published numbers are of equally many.",
        )
    return values, details, warnings


def _reference_features(
    reference: NpzFile | EvaluationImages | None, network: FeatureNetwork | None, folder: ChunkFolder
) -> _Reference:
    """Features of the reference's images, and its stored statistics; a data set's are computed by all processes."""
    if network is None or reference is None:
        return None, None
    if isinstance(reference, NpzFile):
        return (None, None) if folder.processes.rank else reference_features(reference, network, folder.chunk_size)
    plan = {"network": network.name, "reference": [reference.name, reference.split, reference.crop]}
    chunks = ChunkFolder(
        folder.folder / "chunks-of-reference", plan, len(reference), folder.chunk_size, folder.processes
    )
    chunks.compute("reference", lambda numbers: features_to_arrays(network(reference.read(numbers)[0]), "real_"))
    real = FeatureSet()
    for arrays in chunks.read("reference") if folder.processes.rank == 0 else ():
        features = features_from_arrays(arrays, "real_")
        assert features is not None
        real.update(features)
    return real, None


def _convention(
    plan: GenerationPlan, network: FeatureNetwork | None, reference: NpzFile | EvaluationImages | None, size: int
) -> Convention:
    fields: dict[str, Any] = {}
    if network is not None:
        fields = {
            "network": network.name,
            "resize": network.resize,
            "score_block": SCORE_BLOCK,
            "distances": DISTANCES,
        }
    if isinstance(reference, NpzFile):
        fields |= reference_convention(reference, network)
    elif reference is not None:
        fields |= {
            "reference": reference.name,
            "reference_statistics": "of its images",
            "num_reference_images": len(reference),
            "crop": reference.crop,
            "split": reference.split,
        }
    return Convention(
        rounding=plan.rounding,
        image_size=(size, size),
        num_images=plan.num_images,
        order=f"shuffled classes, {'' if plan.is_balanced else 'nearly '}equally many images of each",
        **fields,
    )


def _sheet(pipeline: TiTokPipeline, plan: GenerationPlan) -> Image.Image:
    """The first images of the first classes, a class a row."""
    columns = max(1, min(_SHOWN, plan.num_images // plan.num_classes))
    rows = range(min(_SHOWN, plan.num_classes))
    cells: list[Image.Image] = []
    for label in rows:
        images = generate(pipeline, [label] * columns, list(range(columns)), plan)
        cells += [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    names = [pipeline.id2label.get(label, str(label)).split(",")[0] for label in rows]
    return contact_sheet(cells, columns, labels=names)


def kept_images(folder: ChunkFolder) -> Iterator[np.ndarray]:
    """The images that an evaluation kept, chunk by chunk, uint8 of shape (chunk, height, width, 3)."""
    for arrays in folder.read("generation"):
        yield arrays["images"].transpose(0, 2, 3, 1)


def save_npz(folder: ChunkFolder, plan: GenerationPlan, path: Path) -> None:
    """
    Writes the images as `arr_0` and their labels as `arr_1`, the layout of ADM, a chunk in memory at a time.

    Args:
        folder: of an evaluation that kept its images.
        path: of the file.
    """
    import zipfile

    from titok_hf.checkpoints.atomic_files import write_atomically

    def write(unfinished: Path) -> None:
        with zipfile.ZipFile(unfinished, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                for number, images in enumerate(kept_images(folder)):
                    if number == 0:
                        shape = (plan.num_images, *images.shape[1:])
                        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(images.tobytes())
            with archive.open("arr_1.npy", "w") as file:
                np.lib.format.write_array(file, plan.labels.numpy())

    write_atomically(path, write)


def save_parquet(folder: ChunkFolder, plan: GenerationPlan, path: Path, names: Callable[[int], str]) -> None:
    """
    Writes the images as PNG with their labels into a Parquet file that `datasets` reads.

    Args:
        folder: of an evaluation that kept its images.
        path: of the file.
        names: the name of a class.
    """
    import datasets

    from titok_hf.checkpoints.atomic_files import write_atomically

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[names(n) for n in range(plan.num_classes)])}
    )

    def rows() -> Iterator[dict[str, Any]]:
        labels = iter(plan.labels.tolist())
        for images in kept_images(folder):
            for image in images:
                yield {"image": Image.fromarray(image), "label": next(labels)}

    cache = str(folder.folder / "chunks-parquet")
    made = datasets.Dataset.from_generator(rows, features=features, cache_dir=cache)
    write_atomically(path, lambda unfinished: made.to_parquet(str(unfinished)))


__all__ = [
    "GenerationPlan",
    "evaluate_generation",
    "generate",
    "image_generator",
    "kept_images",
    "save_npz",
    "save_parquet",
]
