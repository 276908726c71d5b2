"""What a feature network sees in sets of images, and the metrics that compare two sets by it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .adm import (
    NUM_NEIGHBOURS,
    SCORE_BLOCK,
    FeatureStatistics,
    Gaussian,
    ScoreStatistics,
    frechet_distance,
    precision_and_recall,
)
from .frozen_classifier import FrozenClassifier
from .inception import InceptionFeatures, InceptionNetwork, file_digest, load_inception

_WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_TENSORS = ("pooled", "spatial", "probabilities")
DISTANCES = f"float16 as in ADM, k = {NUM_NEIGHBOURS}"


class FeatureNetwork:
    """
    Any network as the measure of images.

    Args:
        source: a file of Inception weights (torch-fidelity's); a folder or Hub id of a `transformers` image
            classifier, whose pooled features are taken; or a module that takes uint8 images of shape (batch, 3,
            height, width) and returns (batch, num_features) or `InceptionFeatures`.
        device: where it runs.
    Raises:
        ValueError: there is no such file or classifier, or no such device.
    """

    def __init__(self, source: str | Path | nn.Module, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.resize: str | None = None
        self.classifier: FrozenClassifier | None = None
        if isinstance(source, nn.Module):
            network, kind = source.eval(), type(source).__name__
        elif Path(source).is_file() or str(source).endswith(_WEIGHTS_SUFFIXES):
            network, kind = load_inception(source), "Inception of TensorFlow 2015-12-05"
        else:
            network = _ClassifierFeatures(str(source))
            self.classifier = network.classifier
            kind = type(network.classifier.network).__name__
        self.is_inception = isinstance(network, InceptionNetwork)
        if self.is_inception:
            self.resize = "TensorFlow 1 bilinear to 299 x 299, no antialiasing"
        is_file = self.is_inception and not isinstance(source, nn.Module)
        digest = file_digest(source) if is_file and not isinstance(source, nn.Module) else weights_digest(network)
        self.name = f"{kind}, weights {digest}"
        try:
            self.module = network.to(self.device)
        except (RuntimeError, AssertionError) as error:
            # torch has no common exception for an unknown device, a missing driver and a build without CUDA.
            raise ValueError(f"device {str(device)!r} cannot be used here: {error}. Try --device cpu.") from error

    @property
    def distance_name(self) -> str:
        """What a Fréchet distance of its features is called: only that of Inception is an FID."""
        return "fid" if self.is_inception else "frechet_distance"

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> InceptionFeatures:
        """
        Features of uint8 images, shape (batch, 3, height, width); Inception gives spatial ones and probabilities too.
        """
        with torch.autocast(self.device.type, enabled=False):
            output = self.module(images.to(self.device))
        return output if isinstance(output, InceptionFeatures) else InceptionFeatures(output)

    def knows(self, names: Sequence[str]) -> bool:
        """Whether this is a classifier of the classes of these names, in this order."""
        if self.classifier is None:
            return False
        config = self.classifier.network.config
        return [config.id2label[label] for label in range(config.num_labels)] == list(names)

    @torch.no_grad()
    def classify(self, images: torch.Tensor) -> torch.Tensor:
        """The labels that a classifier gives to uint8 images, int64 on the CPU, shape (batch,)."""
        if self.classifier is None:
            raise ValueError(f"{self.name} is no classifier.")
        return self.classifier(images.to(self.device).float() / 255).logits.argmax(dim=1).cpu()


class FeatureSet:
    """
    Statistics of the features of a set of images that arrive in batches, in constant memory but for the pooled
    features themselves, which precision and recall need.

    Args:
        keep_pooled: whether to keep the pooled features (8 KB an image) for precision and recall.
        score_block: consecutive images in a block of the Inception score; None for all in one.
    """

    def __init__(self, keep_pooled: bool = True, score_block: int | None = SCORE_BLOCK) -> None:
        self.pooled: FeatureStatistics | None = None
        self.spatial: FeatureStatistics | None = None
        self.score = ScoreStatistics(score_block)
        self.vectors: list[torch.Tensor] | None = [] if keep_pooled else None

    def update(self, features: InceptionFeatures) -> None:
        """
        Adds a batch.

        Raises:
            ValueError: features of another shape, or that are not finite.
        """
        if not features.pooled.isfinite().all():
            raise ValueError("The network gives features that are not finite. Look for damaged weights or NaN images.")
        if self.pooled is None:
            self.pooled = FeatureStatistics(features.pooled.shape[1], features.pooled.device)
            if features.spatial is not None:
                self.spatial = FeatureStatistics(features.spatial.shape[1], features.spatial.device)
        self.pooled.update(features.pooled)
        if self.spatial is not None and features.spatial is not None:
            self.spatial.update(features.spatial)
        if features.probabilities is not None:
            self.score.update(features.probabilities)
        if self.vectors is not None:
            self.vectors.append(features.pooled.cpu())

    def gaussians(self) -> tuple[Gaussian, Gaussian | None]:
        """
        Of the pooled and, if there are any, of the spatial features, on the CPU.

        Raises:
            ValueError: fewer than two images.
        """
        if self.pooled is None:
            raise ValueError("There are features of 0 images. A covariance needs at least two.")
        return self.pooled.compute(), None if self.spatial is None else self.spatial.compute()

    def joined_vectors(self) -> torch.Tensor:
        """The pooled features that were kept, float, shape (num_images, num_features), without a second copy."""
        assert self.vectors
        self.vectors = [torch.cat(self.vectors)]
        return self.vectors[0]


def set_metrics(
    samples: FeatureSet,
    reference: FeatureSet | None = None,
    stored: tuple[Gaussian, Gaussian] | None = None,
    distance_name: str = "fid",
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """
    The metrics that compare two sets of images.

    Args:
        samples: of generated or reconstructed images.
        reference: of real images; None if only their statistics are known, or nothing.
        stored: statistics of the pooled and spatial features that serve for the distances in place of the reference's.
        distance_name: under which the distance of the pooled features is reported; only that of Inception is an FID.
        device: computes the distances of precision and recall.
    Returns:
        the distance, if there is a reference; `sfid`, `inception_score` and `inception_score_std` of Inception's
        features; `precision` and `recall` if both sets kept their features and have more than three images.
    Raises:
        ValueError: a set of fewer than two images, or features of another network.
    """
    metrics: dict[str, float] = {}
    real = stored if stored is not None else None if reference is None else reference.gaussians()
    if real is not None:
        for name, mine, theirs in zip((distance_name, "sfid"), samples.gaussians(), real, strict=True):
            if mine is not None and theirs is not None:
                metrics[name] = frechet_distance(mine, theirs)
    if samples.score.count:
        metrics["inception_score"], metrics["inception_score_std"] = samples.score.compute()
    if reference is not None and reference.vectors is not None and samples.vectors is not None:
        vectors = [each.joined_vectors().to(device) for each in (reference, samples)]
        if min(map(len, vectors)) > NUM_NEIGHBOURS:
            metrics["precision"], metrics["recall"] = precision_and_recall(*vectors)
    return metrics


def few_images(*sets: FeatureSet | None) -> tuple[str, ...]:
    """A warning if a set has fewer images than features, for which a Fréchet distance is biased."""
    for each in sets:
        if each is not None and each.pooled is not None and each.pooled.count <= each.pooled.num_features:
            return (
                f"{each.pooled.count} images are fewer than the {each.pooled.num_features} features of the network, "
                "so the distance is too high; compare it with distances of as many images only.",
            )
    return ()


def features_to_arrays(features: InceptionFeatures, prefix: str) -> dict[str, np.ndarray]:
    """For a file; `features_from_arrays` reads them."""
    tensors = {name: getattr(features, name) for name in _TENSORS}
    return {f"{prefix}{name}": tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None}


def features_from_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> InceptionFeatures | None:
    """The features of a chunk; None if it has none of this prefix."""
    tensors = {name: arrays.get(f"{prefix}{name}") for name in _TENSORS}
    if tensors["pooled"] is None:
        return None
    return InceptionFeatures(
        **{name: None if each is None else torch.from_numpy(each) for name, each in tensors.items()}
    )


def weights_digest(module: nn.Module) -> str:
    """The first eight hexadecimal digits of the SHA-256 of all weights of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


class _ClassifierFeatures(nn.Module):
    """Pooled features of a classifier for uint8 images."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.classifier = FrozenClassifier(name)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] != self.classifier.num_channels:
            raise ValueError(
                f"The images have {images.shape[1]} channels; the classifier takes {self.classifier.num_channels}."
            )
        return self.classifier.pooled_features(images.float() / 255)


__all__ = [
    "DISTANCES",
    "FeatureNetwork",
    "FeatureSet",
    "features_from_arrays",
    "features_to_arrays",
    "few_images",
    "set_metrics",
    "weights_digest",
]
