"""Fréchet distance of two sets of images in the features of a network: FID (arXiv 1706.08500) and its like."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from titok_hf.devices import float64_device

from .frozen_classifier import FrozenClassifier

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
_WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class FrechetDistance:
    """
    Distance of real and made images: each set of features is taken for a Gaussian, and the Gaussians are compared.

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
            (batch, channels, height, width), returns (batch, num_features) and has `num_features`.
        device: where the network runs and the statistics are kept; those on the CPU if the device has no float64.
    Raises:
        ValueError: there is no such file or classifier, or torch-fidelity is missing for the former.
    """

    def __init__(self, network: str | Path | nn.Module, device: torch.device | str = "cpu") -> None:
        self.device, home = torch.device(device), float64_device(device)
        if isinstance(network, nn.Module):
            metric = FrechetInceptionDistance(network.eval())
        elif Path(network).is_file() or str(network).endswith(_WEIGHTS_SUFFIXES):
            metric = _inception_metric(Path(network))
        else:
            metric = FrechetInceptionDistance(_ClassifierFeatures(str(network)))
        self.metric = metric.to(home)
        self.metric.inception = _Features(metric.inception.to(self.device), home)
        # torchmetrics learns this from the first batch, which a process without images never sees.
        self.metric.orig_dtype = torch.float64

    @torch.no_grad()
    def update(self, images: torch.Tensor, real: bool) -> None:
        """Adds a batch of images to one of the two sets.

        Args:
            images: float, shape (batch, channels, height, width), values in [0, 1]; others are clamped. They are
                rounded to 256 levels, like pictures in a file, as the published evaluation of reconstructions does.
            real: whether they are real, or made.
        Raises:
            ValueError: the images are not floats of four dimensions.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"The images are {images.dtype} of shape {tuple(images.shape)}. "
                "Give floats in [0, 1] of shape (batch, channels, height, width)."
            )
        with torch.autocast(self.device.type, enabled=False):
            self.metric.update(round_to_bytes(images).to(self.device), real=real)

    def compute(self) -> float:
        """The distance of all images so far, of all processes; 0 for equal sets, up to rounding.

        Raises:
            RuntimeError: one of the two sets has fewer than two images.
        """
        return self.metric.compute().item()

    def reset(self) -> None:
        """Forgets all images, real and made."""
        self.metric.reset()


class _Features(nn.Module):
    """A network whose features arrive where the statistics are, in float64 so that torchmetrics rounds nothing."""

    def __init__(self, network: nn.Module, home: torch.device) -> None:
        super().__init__()
        self.network, self.home = network, home

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).to(self.home).double()


class _ClassifierFeatures(nn.Module):
    """Pooled features of a classifier for uint8 images."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.classifier = FrozenClassifier(name)
        height, width = self.classifier.size or (_declared_size(self.classifier),) * 2
        probe = torch.zeros(1, self.classifier.num_channels, height, width)
        with torch.no_grad():
            self.num_features = self.classifier.pooled_features(probe).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] != self.classifier.num_channels:
            raise ValueError(
                f"The images have {images.shape[1]} channels; the classifier takes {self.classifier.num_channels}."
            )
        return self.classifier.pooled_features(images.float() / 255)


def _declared_size(classifier: FrozenClassifier) -> int:
    """The image size that a network is bound to, or one that every network without a bound takes."""
    size = getattr(classifier.network.config, "image_size", None)
    return size if isinstance(size, int) else 64


def _inception_metric(path: Path) -> FrechetInceptionDistance:
    """FID as published: features of 2048 numbers, images resized without antialiasing as TensorFlow did in 2015."""
    advice = f"Download {INCEPTION_URL} and name the file, or name a transformers image classifier."
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r} of Inception weights. {advice}")
    try:
        # torch-fidelity would run any code in the file, and says nothing of use about a wrong one.
        keys = torch.load(path, map_location="cpu", weights_only=True).keys()
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is not a readable file of weights. {advice}") from error
    if "fc.weight" not in keys or "Mixed_7c.branch_pool.conv.weight" not in keys:
        raise ValueError(f"{str(path)!r} holds other weights than those of FID's Inception network. {advice}")
    try:
        return FrechetInceptionDistance(2048, feature_extractor_weights_path=str(path), antialias=False)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"FID of Inception features needs torch-fidelity: `pip install torch-fidelity` ({error})."
        ) from error


def round_to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Floats in [0, 1], clamped, to the nearest of 256 levels: uint8 of the same shape on the same device."""
    return (images.float().clamp(0, 1) * 255).round().byte()


__all__ = ["FrechetDistance", "round_to_bytes"]
