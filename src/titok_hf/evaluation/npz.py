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

from .adm import SCORE_BLOCK, Gaussian
from .features import DISTANCES, FeatureNetwork, FeatureSet, few_images, set_metrics
from .inception import NUM_POOLED, NUM_SPATIAL
from .numbers import Convention, Report

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
            ValueError: neither two images of 8 bits nor the four statistics.
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
                    if shape[0] < 2:
                        raise ValueError(f"A covariance needs at least two images, but {path} holds {shape[0]}.")
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
            if not np.isfinite(values[name]).all():
                raise ValueError(f"{self.path}: {name} holds values that are not finite. Make or download it again.")
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


def compare(
    samples: str | Path,
    reference: str | Path,
    network: FeatureNetwork,
    batch_size: int = 64,
    progress: Callable[[int], object] = lambda num_images: None,
) -> Report:
    """
    The published evaluator's numbers of a file of samples: `fid`, `sfid`, `inception_score`, `inception_score_std`,
    and, if the reference has images, `precision` and `recall`. Of another network than Inception there are
    `frechet_distance`, `precision` and `recall`.

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
    check_reference(reference_file, sample_file.shape[1:3], "samples", network)
    features = FeatureSet(keep_pooled=reference_file.shape is not None)  # for precision and recall
    for images in sample_file.batches(batch_size):
        features.update(network(images))
        progress(len(images))
    real, stored = reference_features(reference_file, network, batch_size, progress)
    convention = Convention(
        network=network.name,
        resize=network.resize,
        rounding="as stored",
        **reference_convention(reference_file, network),
        image_size=(sample_file.shape[1], sample_file.shape[2]),
        num_images=sample_file.shape[0],
        order="as stored",
        score_block=SCORE_BLOCK,
        distances=DISTANCES,
    )
    metrics = set_metrics(features, real, stored, network.distance_name, network.device)
    warnings = _warnings(sample_file) + few_images(features, real)
    return Report(metrics, convention, {"samples": sample_file.path.name}, warnings=warnings)


def reference_features(
    file: NpzFile,
    network: FeatureNetwork,
    batch_size: int,
    progress: Callable[[int], object] = lambda num_images: None,
) -> tuple[FeatureSet | None, tuple[Gaussian, Gaussian] | None]:
    """Features of the images of a reference, and the statistics that it stores; None for what it has not."""
    features = None
    if file.shape is not None:
        features = FeatureSet()
        for images in file.batches(batch_size):
            features.update(network(images))
            progress(len(images))
    return features, file.statistics() if _serves(file, network) else None


def _serves(file: NpzFile, network: FeatureNetwork | None) -> bool:
    """Whether a file stores statistics, which are those of Inception, of this network."""
    return file.has_statistics and network is not None and network.is_inception


def reference_convention(file: NpzFile, network: FeatureNetwork | None) -> dict[str, Any]:
    """The fields of a `Convention` that a reference decides."""
    return {
        "reference": file.path.name,
        "reference_statistics": "as stored" if _serves(file, network) else "of its images",
        "num_reference_images": 0 if file.shape is None else file.shape[0],
    }


def check_size(reference: NpzFile, size: tuple[int, ...], what: str) -> None:
    """Raises ValueError for a reference whose images have another height and width than `size`, that of `what`."""
    if reference.shape is not None and reference.shape[1:3] != tuple(size):
        raise ValueError(
            f"The {what} are {size[1]} x {size[0]} pixels and the reference {reference.shape[2]} x "
            f"{reference.shape[1]}. Take a reference of the same size."
        )


def check_reference(file: NpzFile, size: tuple[int, ...], what: str, network: FeatureNetwork | None) -> None:
    """
    Checks a reference before the work: the size of its images, and the statistics that it stores.

    Args:
        size: height and width of `what` is compared with it.
    Raises:
        OSError, ValueError: another size, damaged statistics, or statistics alone for another network than Inception.
    """
    check_size(file, size, what)
    if _serves(file, network):
        file.statistics()
    elif file.shape is None and network is not None:
        raise ValueError(
            f"{file.path} holds statistics of Inception alone, and the network is another one ({network.name}). Name "
            "the Inception weights as the network, or a reference with images."
        )


def _warnings(samples: NpzFile) -> tuple[str, ...]:
    if not samples.has_sorted_labels():
        return ()
    return (
        f"The labels in {samples.path} are sorted. The Inception score is computed in consecutive blocks, so it "
        "is too low for them; shuffle the images.",
    )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array that an open npy file begins with."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if is_fortran:
        raise ValueError("arr_0 is in Fortran order. Save it again with np.ascontiguousarray.")
    return shape, dtype


__all__ = ["NpzFile", "check_reference", "check_size", "compare", "reference_convention", "reference_features"]
