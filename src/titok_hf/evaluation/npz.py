"""
Two npz files in the layout of ADM (arXiv 2105.05233) compared as the published evaluator compares them.

A file of samples holds `arr_0`, uint8 of shape (num_images, height, width, 3), and perhaps labels in `arr_1`. A
reference holds images too, or the statistics `mu, sigma, mu_s, sigma_s` of its features, or both; then the statistics
serve for the distances and the images for precision and recall.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from .adm import (
    SCORE_BLOCK,
    FeatureStatistics,
    Gaussian,
    frechet_distance,
    inception_score,
    precision_and_recall,
)
from .inception import NUM_POOLED, NUM_SPATIAL, InceptionNetwork

_STATISTICS = {"mu": (NUM_POOLED,), "sigma": (NUM_POOLED,) * 2, "mu_s": (NUM_SPATIAL,), "sigma_s": (NUM_SPATIAL,) * 2}


@dataclass(frozen=True)
class NpzFile:
    """
    What a file holds, from its headers; images are read in batches, so memory does not grow with their number.

    Args:
        path: of the file.
        shape: of `arr_0`, (num_images, height, width, 3); None without images.
        has_statistics: whether it holds `mu, sigma, mu_s, sigma_s`.
    """

    path: Path
    shape: tuple[int, ...] | None
    has_statistics: bool

    @classmethod
    def open(cls, path: str | Path) -> NpzFile:
        """
        Raises:
            OSError: no such file, or no npz file.
            ValueError: neither images of 8 bits nor the four statistics.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. Give an npz file of images.")
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.removesuffix(".npy") for name in archive.namelist()}
                shape = None
                if "arr_0" in names:
                    with archive.open("arr_0.npy") as file:
                        shape, dtype = _header(file)
                    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
                        raise ValueError(
                            f"{path} holds {dtype} of shape {shape} as arr_0. Save images as uint8 of shape "
                            "(num_images, height, width, 3)."
                        )
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"{path} is no npz file or is cut off ({error}). Make or download it again.") from error
        has_statistics = names >= _STATISTICS.keys()
        if shape is None and not has_statistics:
            raise ValueError(
                f"{path} holds {', '.join(sorted(names)) or 'nothing'}. An npz file of this layout has the images "
                f"arr_0, or {', '.join(_STATISTICS)}."
            )
        return cls(path, shape, has_statistics)

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """
        The images in order, uint8, shape (batch, 3, height, width).

        Raises:
            OSError: the file is cut off or damaged.
        """
        assert self.shape is not None
        num_images, *size = self.shape
        num_bytes = int(np.prod(size))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
                _header(file)
                for start in range(0, num_images, batch_size):
                    count = min(batch_size, num_images - start)
                    content = file.read(count * num_bytes)
                    if len(content) < count * num_bytes:
                        raise EOFError(f"it ends in image {start + len(content) // num_bytes} of {num_images}")
                    images = np.frombuffer(content, np.uint8).reshape(count, *size)
                    yield torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"{self.path} is damaged: {error}. Make or download it again.") from error

    def statistics(self) -> tuple[Gaussian, Gaussian]:
        """
        Those of the pooled and of the spatial features that the file holds.

        Raises:
            OSError, ValueError: they are damaged, or have other shapes or values than such statistics.
        """
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in _STATISTICS}
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise OSError(f"{self.path} is damaged: {error}. Make or download it again.") from error
        for name, shape in _STATISTICS.items():
            if values[name].shape != shape:
                raise ValueError(f"{self.path}: {name} has shape {values[name].shape}, but {shape} is expected.")
        tensors = {name: torch.from_numpy(value.astype(np.float64)) for name, value in values.items()}
        return Gaussian(tensors["mu"], tensors["sigma"]), Gaussian(tensors["mu_s"], tensors["sigma_s"])

    def has_sorted_labels(self) -> bool:
        """Whether there are labels and they never fall: then blocks of the Inception score see few classes each."""
        with zipfile.ZipFile(self.path) as archive:
            if "arr_1.npy" not in archive.namelist():
                return False
        with np.load(self.path, allow_pickle=False) as arrays:
            labels = arrays["arr_1"]
        return labels.ndim == 1 and len(set(labels.tolist())) > 1 and bool(np.all(labels[1:] >= labels[:-1]))


@dataclass(frozen=True)
class Comparison:
    """
    Args:
        metrics: `fid`, `sfid`, `inception_score`, `inception_score_std`, and, if the reference has images, `precision`
            and `recall`.
        convention: what the numbers depend on.
        warnings: sentences about the files that a reader of the numbers has to know.
    """

    metrics: dict[str, float]
    convention: dict[str, Any]
    warnings: list[str]


def compare(
    samples: str | Path,
    reference: str | Path,
    network: InceptionNetwork,
    batch_size: int = 64,
    progress: Callable[[int], object] = lambda num_images: None,
) -> Comparison:
    """
    The published evaluator's numbers of a file of samples.

    Args:
        samples, reference: npz files.
        network: on the device that computes.
        batch_size: images in a forward pass; it changes no number beyond rounding.
        progress: called with the number of images that are done since the last call.
    Raises:
        OSError: a file is missing or damaged.
        ValueError: a file holds something else, too few images, or images of another size than the other's.
    """
    sample_file, reference_file = NpzFile.open(samples), NpzFile.open(reference)
    if sample_file.shape is None:
        raise ValueError(f"{samples} holds statistics alone. Samples have to be images.")
    for file in (sample_file, reference_file):
        if file.shape is not None and file.shape[0] < 2:
            raise ValueError(f"{file.path} holds {file.shape[0]} images. A covariance needs at least two.")
    if reference_file.shape is not None and reference_file.shape[1:] != sample_file.shape[1:]:
        raise ValueError(
            f"The samples are {_size(sample_file)} pixels and the reference {_size(reference_file)}. "
            "Take a reference of the samples' size."
        )
    sample_features = _Features.of(sample_file, network, batch_size, progress)
    reference_features = None
    if reference_file.shape is not None:
        reference_features = _Features.of(reference_file, network, batch_size, progress, with_scores=False)
    if reference_file.has_statistics:
        pooled, spatial = reference_file.statistics()
    else:
        assert reference_features is not None
        pooled, spatial = reference_features.gaussians()
    sample_pooled, sample_spatial = sample_features.gaussians()
    mean, std = inception_score(torch.cat(sample_features.probabilities))
    metrics = {
        "fid": frechet_distance(sample_pooled, pooled),
        "sfid": frechet_distance(sample_spatial, spatial),
        "inception_score": mean,
        "inception_score_std": std,
    }
    if reference_features is not None:
        device = next(network.parameters()).device
        features = [torch.cat(each.pooled).to(device) for each in (reference_features, sample_features)]
        metrics["precision"], metrics["recall"] = precision_and_recall(*features)
    convention = {
        "protocol": "ADM evaluator: TensorFlow 1 resize, float16 distances, k = 3",
        "inception_score_blocks": f"consecutive, {SCORE_BLOCK} images",
        "num_samples": sample_file.shape[0],
        "num_reference_images": 0 if reference_file.shape is None else reference_file.shape[0],
        "reference_statistics": "from the file" if reference_file.has_statistics else "of its images",
        "image_size": list(sample_file.shape[1:3]),
    }
    return Comparison(metrics, convention, _warnings(sample_file))


def _warnings(samples: NpzFile) -> list[str]:
    warnings = []
    if samples.has_sorted_labels():
        warnings.append(
            f"The labels in {samples.path} are sorted. The Inception score is computed in consecutive blocks, so it "
            "is too low for them; shuffle the images."
        )
    return warnings


@dataclass
class _Features:
    """Features of a file's images: the pooled ones whole, for precision and recall; the spatial ones as sums."""

    pooled: list[torch.Tensor]
    probabilities: list[torch.Tensor]
    pooled_statistics: FeatureStatistics
    spatial_statistics: FeatureStatistics

    @classmethod
    def of(
        cls,
        file: NpzFile,
        network: InceptionNetwork,
        batch_size: int,
        progress: Callable[[int], object],
        with_scores: bool = True,
    ) -> _Features:
        device = next(network.parameters()).device
        features = cls([], [], FeatureStatistics(NUM_POOLED, device), FeatureStatistics(NUM_SPATIAL, device))
        for images in file.batches(batch_size):
            output = network(images.to(device))
            features.pooled.append(output.pooled.cpu())
            if with_scores:
                features.probabilities.append(output.probabilities.cpu())
            features.pooled_statistics.update(output.pooled)
            features.spatial_statistics.update(output.spatial)
            progress(len(images))
        return features

    def gaussians(self) -> tuple[Gaussian, Gaussian]:
        """Of the pooled and of the spatial features, on the CPU."""
        pair = self.pooled_statistics.compute(), self.spatial_statistics.compute()
        first, second = (Gaussian(each.mean.cpu(), each.covariance.cpu()) for each in pair)
        return first, second


def _size(file: NpzFile) -> str:
    assert file.shape is not None
    return f"{file.shape[2]} x {file.shape[1]}"


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array that an open npy file begins with."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if is_fortran:
        raise ValueError("arr_0 is in Fortran order. Save it again with np.ascontiguousarray.")
    return shape, dtype


__all__ = ["Comparison", "NpzFile", "compare"]
