"""
The numbers of the published evaluation, from features: Fréchet distance, Inception score, precision and recall.

They follow the evaluator that came with ADM (arXiv 2105.05233), with which the results of TiTok and of its peers were
computed: float16 distances, consecutive blocks of the Inception score and TensorFlow's way to resize included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from titok_hf.devices import float64_device

SCORE_BLOCK = 5_000
"""Images in a block of the Inception score."""
NUM_NEIGHBOURS = 3
"""Which nearest neighbour gives the radius of an image (arXiv 1904.06991)."""
DISTANCE_BLOCK = 10_000
"""Rows and columns of the distances that are computed at once. It decides which of them are computed in float32."""
_STRIP = 1_000
"""Rows of a block whose intermediate results are in memory at once."""

Rounding = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Gaussian:
    """
    Mean and covariance of features.

    Args:
        mean: float64, shape (num_features,).
        covariance: float64, shape (num_features, num_features), with N - 1 in the denominator.
    Raises:
        ValueError: the shapes do not fit one another, or a value is not finite.
    """

    mean: torch.Tensor
    covariance: torch.Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.covariance.shape != (len(self.mean), len(self.mean)):
            raise ValueError(
                f"The mean has shape {tuple(self.mean.shape)} and the covariance {tuple(self.covariance.shape)}. "
                "Give (num_features,) and (num_features, num_features)."
            )
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError("Mean or covariance hold values that are not finite. Look for NaN in the features.")


class FeatureStatistics:
    """
    Mean and covariance of features that arrive in batches, in constant memory.

    The sums are kept in float64, about the mean of the first batch, so that large means lose no digits. Statistics of
    several processes are merged with `merge`.

    Args:
        num_features: length of a feature vector.
        device: where the sums are kept; on the CPU if the device has no float64.
    """

    def __init__(self, num_features: int, device: torch.device | str = "cpu") -> None:
        home = float64_device(device)
        self.count = 0
        self._shift = torch.zeros(num_features, dtype=torch.float64, device=home)
        self._sum = torch.zeros_like(self._shift)
        self._products = torch.zeros(num_features, num_features, dtype=torch.float64, device=home)

    @property
    def num_features(self) -> int:
        """Length of a feature vector."""
        return len(self._shift)

    def update(self, features: torch.Tensor) -> None:
        """
        Adds a batch.

        Args:
            features: float, shape (batch, num_features).
        Raises:
            ValueError: another shape.
        """
        if features.ndim != 2 or features.shape[1] != len(self._shift):
            raise ValueError(
                f"The features have shape {tuple(features.shape)}, but (batch, {len(self._shift)}) is expected."
            )
        features = features.to(self._shift.device).double()
        if self.count == 0 and len(features):
            self._shift = features.mean(dim=0)
        features = features - self._shift
        self.count += len(features)
        self._sum += features.sum(dim=0)
        self._products += features.T @ features

    def cpu(self) -> FeatureStatistics:
        """A copy on the CPU, such as another process can read."""
        copy = FeatureStatistics(len(self._shift))
        copy.merge(self)
        return copy

    def merge(self, other: FeatureStatistics) -> None:
        """Adds the statistics of other images, such as those of another process."""
        if other.count == 0:
            return
        if self.count == 0:
            self._shift = other._shift.to(self._shift.device)
        offset = other._shift.to(self._shift.device) - self._shift
        other_sum, count = other._sum.to(self._shift.device), other.count
        # sum (x + d)(x + d)^T = sum x x^T + s d^T + d s^T + n d d^T, where s = sum x.
        cross = torch.outer(other_sum, offset)
        self._products += (
            other._products.to(self._shift.device) + cross + cross.T + count * torch.outer(offset, offset)
        )
        self._sum += other_sum + count * offset
        self.count += count

    def compute(self) -> Gaussian:
        """
        Mean and covariance of all features so far, on the CPU.

        Raises:
            ValueError: fewer than two images, of which no covariance exists.
        """
        if self.count < 2:
            raise ValueError(f"There are features of {self.count} images. A covariance needs at least two.")
        centre = self._sum / self.count
        covariance = (self._products - self.count * torch.outer(centre, centre)) / (self.count - 1)
        return Gaussian((self._shift + centre).cpu(), covariance.cpu())


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """
    Fréchet distance of two Gaussians (arXiv 1706.08500, eq. 6), in float64:

        |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)

    With factors C = A^T A the last trace is the sum of the singular values of A1 A2^T. So it is exact for covariances
    of few images too, whose product has no root that could be computed directly.

    Raises:
        ValueError: numbers of features differ.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(
            f"One set has {len(first.mean)} features an image and the other {len(second.mean)}. "
            "Take both from the same layer of the same network."
        )
    home = float64_device(first.mean.device)
    mean1, mean2 = first.mean.to(home), second.mean.to(home)
    factor1, factor2 = _factor(first.covariance.to(home)), _factor(second.covariance.to(home))
    root = torch.linalg.svdvals(factor1 @ factor2.T).sum()
    traces = first.covariance.trace().to(home) + second.covariance.trace().to(home)
    return float((mean1 - mean2).square().sum() + traces - 2 * root)


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """A with A^T A = covariance, shape (rank, num_features)."""
    values, vectors = torch.linalg.eigh(covariance)
    # Below this bound, that of numpy's matrix_rank, an eigenvalue is rounding; its root would not be small.
    is_rounding = values <= values.max() * len(values) * torch.finfo(values.dtype).eps
    return (values.clamp(min=0).sqrt()[:, None] * vectors.T)[~is_rounding]


class ScoreStatistics:
    """
    The Inception score (arXiv 1606.03498) of images that arrive in batches, in constant memory: exp of the mean
    divergence of an image's classes from those of all images.

    Blocks are consecutive, as in the published evaluator, so the score depends on the order of the images: shuffle
    images that are sorted by class. The last block may be shorter.

    Args:
        block: images in a block; None for all in one.
    """

    def __init__(self, block: int | None = SCORE_BLOCK) -> None:
        self.block, self.count = block, 0
        self._sums: list[torch.Tensor] = []  # of the probabilities of each block
        self._negative_entropies: list[float] = []  # summed over the images of each block
        self._counts: list[int] = []

    def update(self, probabilities: torch.Tensor) -> None:
        """
        Adds the next images.

        Args:
            probabilities: of the classes, float, shape (batch, num_classes), each row adds up to 1.
        Raises:
            ValueError: values that are no probabilities.
        """
        probabilities = probabilities.to(float64_device(probabilities.device)).double()
        sums = probabilities.sum(dim=1)
        if not ((probabilities >= 0).all() and ((sums - 1).abs() < 1e-3).all()):
            raise ValueError("Some rows of probabilities are negative, not finite, or do not add up to 1.")
        while len(probabilities):
            if not self._counts or self._counts[-1] == self.block:
                self._sums.append(torch.zeros_like(probabilities[0]))
                self._negative_entropies.append(0.0)
                self._counts.append(0)
            free = len(probabilities) if self.block is None else self.block - self._counts[-1]
            rows, probabilities = probabilities[:free], probabilities[free:]
            self._sums[-1] += rows.sum(dim=0)
            self._negative_entropies[-1] += float(torch.special.xlogy(rows, rows).sum())
            self._counts[-1] += len(rows)
            self.count += len(rows)

    def compute(self) -> tuple[float, float]:
        """
        Mean and standard deviation over blocks.

        Raises:
            ValueError: no image.
        """
        if not self.count:
            raise ValueError("There are probabilities of 0 images. An Inception score needs at least one.")
        scores = []
        for total, negative_entropy, count in zip(self._sums, self._negative_entropies, self._counts, strict=True):
            marginal = total / count
            divergence = negative_entropy / count - float(torch.special.xlogy(marginal, marginal).sum())
            scores.append(math.exp(divergence))
        values = torch.tensor(scores, dtype=torch.float64, device="cpu")
        return float(values.mean()), float(values.std(correction=0))


def inception_score(probabilities: torch.Tensor, block: int = SCORE_BLOCK) -> tuple[float, float]:
    """
    Mean and standard deviation over blocks of the Inception score; see [`ScoreStatistics`].

    Args:
        probabilities: of the classes, float, shape (num_images, num_classes), each row adds up to 1.
        block: consecutive images in a block.
    Raises:
        ValueError: no image, or values that are no probabilities.
    """
    if probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(f"probabilities has shape {tuple(probabilities.shape)}. Give (num_images, num_classes).")
    statistics = ScoreStatistics(block)
    statistics.update(probabilities)
    return statistics.compute()


def precision_and_recall(
    reference: torch.Tensor, samples: torch.Tensor, num_neighbours: int = NUM_NEIGHBOURS
) -> tuple[float, float]:
    """
    Share of samples that lie among the reference images, and of reference images that lie among the samples (arXiv
    1904.06991). An image lies among others if it is within the radius of one of them, the distance of that one to its
    k-th nearest neighbour in its own set.

    Memory: the features, and a block of 10,000 x 10,000 distances (0.4 GB) at a time with its temporary results.

    Args:
        reference, samples: features, float, shapes (num_images, num_features); on the device that computes.
        num_neighbours: k; each image is its own neighbour 0.
    Returns:
        precision and recall, in [0, 1].
    Raises:
        ValueError: sets of no more than k images, or numbers of features that differ.
    """
    if reference.ndim != 2 or samples.ndim != 2 or reference.shape[1] != samples.shape[1]:
        raise ValueError(
            f"The features have shapes {tuple(reference.shape)} and {tuple(samples.shape)}. Give (num_images, "
            "num_features), with the same number of features."
        )
    if min(len(reference), len(samples)) <= num_neighbours:
        raise ValueError(
            f"There are {len(reference)} reference images and {len(samples)} samples, but a radius needs more than "
            f"{num_neighbours} images in each set."
        )
    reference_radii = neighbour_radii(reference, num_neighbours)
    sample_radii = neighbour_radii(samples, num_neighbours)
    sample_is_inside = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    reference_is_inside = torch.zeros(len(reference), dtype=torch.bool, device=samples.device)
    for rows in _slices(len(reference), DISTANCE_BLOCK):
        for columns in _slices(len(samples), DISTANCE_BLOCK):
            among_samples, among_reference = _are_inside(
                reference[rows], samples[columns], reference_radii[rows], sample_radii[columns]
            )
            reference_is_inside[rows] |= among_samples
            sample_is_inside[columns] |= among_reference
    return sample_is_inside.double().mean().item(), reference_is_inside.double().mean().item()


def _are_inside(
    reference: torch.Tensor, samples: torch.Tensor, reference_radii: torch.Tensor, sample_radii: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images of a block of the reference lie among those samples, and which samples among that reference."""
    distances = squared_distances(reference, samples)  # the block is freed at the end of this function
    return (distances <= sample_radii).any(dim=1), (distances <= reference_radii[:, None]).any(dim=0)


def neighbour_radii(features: torch.Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> torch.Tensor:
    """Squared distance of each image to its k-th nearest neighbour in the same set, float32, shape (num_images,)."""
    radii = []
    for rows in _slices(len(features), DISTANCE_BLOCK):
        nearest = torch.empty(len(features[rows]), 0, device=features.device)
        for columns in _slices(len(features), DISTANCE_BLOCK):
            smallest = _smallest(squared_distances(features[rows], features[columns]), num_neighbours + 1)
            nearest = _smallest(torch.cat([nearest, smallest], dim=1), num_neighbours + 1)
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _smallest(values: torch.Tensor, count: int) -> torch.Tensor:
    """The smallest values of each row, in ascending order, or all if there are fewer."""
    return values.topk(min(count, values.shape[1]), dim=1, largest=False).values


def squared_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    |u|^2 - 2 u v + |v|^2 of all pairs in the precision of the published evaluator: each intermediate result is rounded
    to float16, and if one of the block is not finite, the block is computed in float32.

    Args:
        first, second: float, shapes (n, num_features) and (m, num_features).
    Returns:
        float32, shape (n, m), at least 0.
    """
    first, second = first.float(), second.float()
    distances = torch.empty(len(first), len(second), device=first.device)
    for rounded in (_to_float16, _unrounded):
        is_finite = True
        for rows, strip in _distances(first, second, rounded):
            distances[rows] = strip
            is_finite &= bool(strip.isfinite().all())
        if is_finite:
            break
    return distances.clamp_(min=0)


def _to_float16(values: torch.Tensor) -> torch.Tensor:
    return values.half().float()


def _unrounded(values: torch.Tensor) -> torch.Tensor:
    return values


def _distances(first: torch.Tensor, second: torch.Tensor, rounded: Rounding) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows of the distances at a time, so that only their intermediate results are in memory."""
    second = rounded(second)
    norms2 = rounded(second.square().sum(dim=1))
    for rows in _slices(len(first), _STRIP):
        strip = rounded(first[rows])
        norms1 = rounded(strip.square().sum(dim=1))[:, None]
        products = rounded(strip @ second.T)
        yield rows, rounded(rounded(norms1 - 2 * products) + norms2)


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, start + size)


def resize_like_tensorflow1(images: torch.Tensor, size: int = 299) -> torch.Tensor:
    """
    TensorFlow 1's bilinear resize, which the Inception network of the published FID begins with: output pixel i lies
    at input position i * input_size / size, without half-pixel centres and without antialiasing.

    Args:
        images: float or uint8, shape (batch, channels, height, width).
        size: side of the result, in pixels.
    Returns:
        float32, shape (batch, channels, size, size), in the range of `images`.
    """
    images = images.float()
    top, bottom, y = _neighbours(images.shape[2], size, images.device)
    left, right, x = _neighbours(images.shape[3], size, images.device)
    columns = images[..., left].lerp(images[..., right], x)  # (B, C, H, size)
    return columns[:, :, top].lerp(columns[:, :, bottom], y[:, None])


def _neighbours(length: int, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each output pixel of an axis: the input pixels before and after it, and the weight of the latter."""
    # In float32, as TensorFlow: position = i * (length / size).
    position = torch.arange(size, device=device, dtype=torch.float32) * (length / size)
    before = position.floor().long()
    after = (before + 1).clamp(max=length - 1)
    return before, after, position - before


__all__ = [
    "DISTANCE_BLOCK",
    "NUM_NEIGHBOURS",
    "SCORE_BLOCK",
    "FeatureStatistics",
    "Gaussian",
    "ScoreStatistics",
    "frechet_distance",
    "inception_score",
    "neighbour_radii",
    "precision_and_recall",
    "resize_like_tensorflow1",
    "squared_distances",
]
