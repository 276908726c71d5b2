"""Fréchet distance of two sets of images in the features of a network: FID (arXiv 1706.08500) and its like."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from titok_hf.accepted_values import check_finite

from .adm import FeatureStatistics, Gaussian, frechet_distance
from .features import FeatureNetwork


class FrechetDistance:
    """
    Distance of real and generated images: each set of features is taken for a Gaussian, and these are compared.

    With the Inception network of the published FID, distances of reconstructions are rFID; with any other network they
    are comparable to one another only, for the same network and the same real images. Every set needs more than one
    image, and more images than the network has features (2048 for Inception) for the number to mean much: with fewer
    the distance is biased upward, by more the fewer they are, and numbers of different counts must not be compared.

    Several processes each give their own images. `compute`, which all of them must call, adds their statistics up and
    returns the same number in each. Statistics are sums in float64, whatever the number of images. The matrix root in
    `compute` takes about 20 s for 2048 features on one CPU core.

    Args:
        network: a file of Inception weights (torch-fidelity's), for FID; or a folder or Hub id of a `transformers`
            image classifier, for the distance of its pooled features; or a module that takes uint8 images of shape
            (batch, channels, height, width) and returns (batch, num_features).
        device: where the network runs and the statistics are kept; those on the CPU if the device has no float64.
    Raises:
        ValueError: there is no such file or classifier.
    """

    def __init__(self, network: str | Path | nn.Module, device: torch.device | str = "cpu") -> None:
        self.network = FeatureNetwork(network, device)
        self._statistics: dict[bool, FeatureStatistics] = {}
        self._stored: Gaussian | None = None

    def compare_with(self, stored: Gaussian) -> None:
        """Compares with stored statistics of this network instead of real images."""
        self._stored = stored

    def update(self, images: torch.Tensor, real: bool) -> None:
        """Adds a batch of images to one of the two sets.

        Args:
            images: float, shape (batch, channels, height, width), values in [0, 1]; others are clamped. They are
                rounded to 256 levels, like images in a file, as the published evaluation of reconstructions does.
            real: whether they are real, or generated.
        Raises:
            ValueError: the images are not floats of four dimensions, or hold NaN.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"The images are {images.dtype} of shape {tuple(images.shape)}. "
                "Give floats in [0, 1] of shape (batch, channels, height, width)."
            )
        check_finite(images.isfinite().all(), "The pixels of the images")
        features = self.network(round_to_bytes(images)).pooled
        statistics = self._statistics.get(real)
        if statistics is None:
            statistics = self._statistics[real] = FeatureStatistics(features.shape[1], features.device)
        statistics.update(features)

    def compute(self) -> float:
        """The distance of all images so far, of all processes; 0 for equal sets, up to rounding.

        Raises:
            RuntimeError: one of the two sets has fewer than two images.
        """
        merged = [self._of_all_processes(real) for real in (True, False)]
        counts = [0 if each is None else each.count for each in merged]
        if self._stored is not None and merged[1] is not None and counts[1] > 1:
            return frechet_distance(merged[1].compute(), self._stored)
        if min(counts) < 2:
            raise RuntimeError(
                f"There are {counts[0]} real and {counts[1]} generated images. Give more than one of each kind."
            )
        first, second = (each.compute() for each in merged if each is not None)
        return frechet_distance(first, second)

    def reset(self, real: bool = True) -> None:
        """Forgets the generated images, and the real ones too unless `real` is False."""
        self._statistics = {kind: each for kind, each in self._statistics.items() if kind and not real}

    def _of_all_processes(self, real: bool) -> FeatureStatistics | None:
        statistics = self._statistics.get(real)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return statistics
        gathered: list[FeatureStatistics | None] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, None if statistics is None else statistics.cpu())
        present = [each for each in gathered if each is not None]
        if not present:
            return None
        for other in present[1:]:
            present[0].merge(other)
        return present[0]


def round_to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Floats in [0, 1], clamped, to the nearest of 256 levels: uint8 of the same shape on the same device."""
    return (images.float().clamp(0, 1) * 255).round().byte()


__all__ = ["FrechetDistance", "round_to_bytes"]
