"""Does a generator repeat its training images?

Two questions are asked of the nearest training images (pixel distance):

* Are generated images nearer to the training set than unseen real images are? A decoder's images are smoother than
  real ones and therefore nearer to everything, so the fair yardstick is the set of *reconstructed* test images: made
  by the same decoder, of images that were never trained on.
* Is one training image much nearer than all others? That is how a copy differs from a typical image of its class. The
  criterion, a distance under a third of that to the second nearest, is the one of Yoon et al. 2023, "Diffusion
  Probabilistic Models Generalize when They Fail to Memorize".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from titok_hf.contact_sheets import contact_sheet

from .evaluate_reconstruction import reconstruct
from .images import EvaluationImages, to_pil

if TYPE_CHECKING:
    from titok_hf.pipeline_titok import TiTokPipeline

NUM_QUERIES = 1_000
"""Generated images, and real ones that were not trained on, whose nearest training images are looked for."""
_BATCH = 1_000
_COLUMNS = 10
_PAIRS_SHOWN = 50
COPY_RATIO = 1 / 3
NEAR_QUANTILE = 0.01


@dataclass(frozen=True)
class NearestNeighbors:
    """The two nearest reference images of each query, the nearest first.

    Args:
        distances: float32, shape (queries, 2): Euclidean distance of the pixel values in [0, 1].
        indices: int64, shape (queries, 2): position in the stream of references.
        images: uint8, shape (queries, channels, height, width): the nearest reference itself.
    """

    distances: torch.Tensor
    indices: torch.Tensor
    images: torch.Tensor


def measure_memorization(
    pipeline: TiTokPipeline, generated: torch.Tensor, held_out: EvaluationImages, training: EvaluationImages
) -> tuple[dict[str, float], Image.Image]:
    """
    Compares generated images with the images that their generator was trained on.

    Args:
        generated: uint8, shape (batch, 3, height, width).
        held_out: real images that nothing was trained on.
        training: the images of the training.
    Returns:
        the numbers of `memorization_report`; a contact sheet of the generated images that are nearest to a training
        image, each followed by that image.
    """
    count = min(NUM_QUERIES, len(held_out))
    numbers = torch.linspace(0, len(held_out) - 1, count, dtype=torch.float64, device="cpu").long().tolist()
    real, _ = held_out.read(numbers)
    reconstructed = torch.cat([reconstruct(pipeline, images)[0] for images in real.split(100)])
    groups = {"generated": generated[:NUM_QUERIES], "held_out": real, "reconstructed": reconstructed}
    starts = range(0, len(training), _BATCH)
    batches = (training.read(range(start, min(start + _BATCH, len(training))))[0] for start in starts)
    found = find_nearest_neighbors(torch.cat(list(groups.values())), batches)
    sizes = [len(images) for images in groups.values()]
    parts = zip(found.distances.split(sizes), found.indices.split(sizes), found.images.split(sizes), strict=True)
    neighbors = {name: NearestNeighbors(*part) for name, part in zip(groups, parts, strict=True)}
    nearest = neighbors["generated"].distances[:, 0].argsort()[:_PAIRS_SHOWN]
    pairs = torch.stack([groups["generated"][nearest], neighbors["generated"].images[nearest]], dim=1).flatten(0, 1)
    return memorization_report(**neighbors), contact_sheet(to_pil(pairs), _COLUMNS)


def find_nearest_neighbors(queries: torch.Tensor, references: Iterable[torch.Tensor]) -> NearestNeighbors:
    """Looks through a stream of reference images once, holding one batch of it.

    Args:
        queries: uint8, shape (queries, channels, height, width).
        references: batches of uint8 images of the same size; at least two images in all.
    Raises:
        ValueError: there are fewer than two references.
    """
    best_distances = torch.full((len(queries), 2), torch.inf)
    best_indices = torch.full((len(queries), 2), -1)
    best_images = torch.zeros_like(queries)
    start = 0
    flat_queries = queries.flatten(1).float()
    for batch in references:
        distances, positions = _nearest_in_batch(flat_queries, batch.flatten(1).float())
        closer = distances[:, 0] < best_distances[:, 0]
        best_images[closer] = batch[positions[closer, 0]]
        both = torch.cat([best_distances, distances], dim=1)
        best_distances, order = both.topk(2, dim=1, largest=False)
        best_indices = torch.cat([best_indices, positions + start], dim=1).gather(1, order)
        start += len(batch)
    if start < 2:
        raise ValueError(f"Nearest neighbours were asked for among {start} references; at least two are needed.")
    return NearestNeighbors(best_distances, best_indices, best_images)


def _nearest_in_batch(queries: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances and positions, (queries, up to 2), of the nearest rows; both arguments hold values in [0, 255]."""
    # |q - r|^2 = |q|^2 - 2 q.r + |r|^2, of which |q|^2 does not change the order. One matrix product ranks the batch,
    # but the difference of large numbers loses digits, so that the distances of the winners are computed anew.
    ranks = references.square().sum(dim=1) - 2 * queries @ references.T
    positions = ranks.topk(min(2, len(references)), dim=1, largest=False).indices
    differences = queries[:, None] - references[positions]
    distances, order = (differences.square().sum(dim=2).sqrt() / 255).sort(dim=1)
    return distances, positions.gather(1, order)


def memorization_report(
    generated: NearestNeighbors, held_out: NearestNeighbors, reconstructed: NearestNeighbors
) -> dict[str, float]:
    """Compares generated images with images that were never trained on.

    Args:
        generated: nearest training images of generated images.
        held_out: of real test images.
        reconstructed: of the same test images after the tokenizer.
    Returns:
        `median_distance_*` of the three; `distance_ratio`, the generated median over the reconstructed one: near 1 if
        generated images are as far from the training set as unseen ones; `near_share`, the share of generated images
        nearer than the nearest 1% of reconstructed test images: near 0.01 if they are alike; `copy_share_*`, the share
        of images whose nearest training image is more than three times as near as the second nearest.
    """
    groups = {"generated": generated, "held_out": held_out, "reconstructed": reconstructed}
    medians = {f"median_distance_{name}": group.distances[:, 0].median().item() for name, group in groups.items()}
    near = reconstructed.distances[:, 0].quantile(NEAR_QUANTILE)
    return {
        **medians,
        "distance_ratio": medians["median_distance_generated"] / medians["median_distance_reconstructed"],
        "near_share": (generated.distances[:, 0] < near).float().mean().item(),
        **{f"copy_share_{name}": copy_share(group) for name, group in groups.items()},
    }


def copy_share(neighbors: NearestNeighbors) -> float:
    """The share of queries, in [0, 1], that are a suspiciously near copy of one reference image."""
    nearest, second = neighbors.distances.unbind(dim=1)
    return (nearest < COPY_RATIO * second).float().mean().item()


__all__ = ["NearestNeighbors", "copy_share", "find_nearest_neighbors", "measure_memorization", "memorization_report"]
