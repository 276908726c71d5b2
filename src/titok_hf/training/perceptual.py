"""Perceptual losses: distances of images in the features of trained networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from titok_hf.evaluation.frozen_classifier import FrozenClassifier
from titok_hf.evaluation.lpips import load_lpips
from titok_hf.evaluation.torchvision_convnext import PUBLISHED_CONVNEXT

from .configs import PerceptualConfig
from .recipes import RecipeError


class PerceptualLoss(nn.Module):
    """
    Weighted sum of up to three distances of two images, in the features of frozen networks:

    * `logits_weight` times the mean squared difference of a classifier's class logits, the term of both published
      recipes, with torchvision's ConvNeXt-S on 224 x 224 pixels;
    * `features_weight` times the difference of the classifier's hidden states, each of unit length over channels and
      averaged over layers and positions;
    * `lpips_weight` times LPIPS (arXiv 1801.03924).

    Stage 2 has 0.1 times the logits. The single stage is published as the average of LPIPS and logits with weights 1.0
    and 0.1, times 1.1. That is (1.0 * lpips + 0.1 * logits) / 1.1 * 1.1, so that the weights here are 1.0 and 0.1.

    Args:
        lpips: replaces the network of `load_lpips`.
    Raises:
        RecipeError: a network or its weights are missing.
    """

    def __init__(self, config: PerceptualConfig, lpips: nn.Module | None = None) -> None:
        super().__init__()
        self.logits_weight = config.logits_weight
        self.features_weight = config.features_weight
        self.lpips_weight = config.lpips_weight
        self.classifier: FrozenClassifier | None = None
        self.lpips: nn.Module | None = None
        if config.lpips_weight:
            lpips = _load_lpips(config) if lpips is None else lpips
            self.lpips = lpips.eval().requires_grad_(False)
        if config.model is not None:
            self.classifier = _load_classifier(config.model)

    def train(self, mode: bool = True) -> PerceptualLoss:
        """The networks stay in evaluation mode, with fixed statistics."""
        return super().train(False)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            prediction, target: float, shape (batch, channels, height, width), nominally in [0, 1].
        Returns:
            scalars, means over the batch: `perceptual_loss`, the sum, whose gradients reach `prediction` only. With
            both a classifier and LPIPS also its weighted parts for the log, `lpips_loss` and `classifier_loss`.
        """
        parts = {}
        if self.lpips is not None:
            parts["lpips_loss"] = self.lpips_weight * self._lpips_distance(self.lpips, prediction, target)
        if self.classifier is not None:
            parts["classifier_loss"] = self._classifier_distance(self.classifier, prediction, target)
        total = torch.stack(list(parts.values())).sum()
        shown = {name: part.detach() for name, part in parts.items()} if len(parts) > 1 else {}
        return {"perceptual_loss": total, **shown}

    def _lpips_distance(self, lpips: nn.Module, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # In float32, as published: it divides by roots of sums that half precision rounds to 0.
        with torch.autocast(prediction.device.type, enabled=False):
            return lpips(prediction.float(), target.detach().float(), normalize=True).mean()

    def _classifier_distance(
        self, classifier: FrozenClassifier, prediction: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        output_hidden_states = bool(self.features_weight)
        with torch.no_grad():
            wanted = classifier(target, output_hidden_states)
        seen = classifier(prediction, output_hidden_states)
        loss = self.logits_weight * F.mse_loss(seen.logits.float(), wanted.logits.float())
        if self.features_weight:
            pairs = list(zip(seen.hidden_states, wanted.hidden_states, strict=True))
            loss = loss + self.features_weight * sum(_normalized_distance(a, b) for a, b in pairs) / len(pairs)
        return loss


def _normalized_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance of unit feature vectors, averaged over positions and images."""
    # Axis 1 of the four axes of a convolution, the last of the three axes of a transformer.
    channels = 1 if prediction.ndim == 4 else -1
    difference = F.normalize(prediction.float(), dim=channels) - F.normalize(target.float(), dim=channels)
    return difference.square().sum(dim=channels).mean()


def _load_lpips(config: PerceptualConfig) -> nn.Module:
    try:
        return load_lpips(config.lpips_network, config.lpips_weights)
    except ValueError as error:
        raise RecipeError(f"loss.perceptual.lpips_weight asks for LPIPS: {error}") from error


def _load_classifier(name: str) -> FrozenClassifier:
    try:
        return FrozenClassifier(name)
    except ValueError as error:
        raise RecipeError(
            f"loss.perceptual.model: {error} The published recipes have {PUBLISHED_CONVNEXT} of torchvision; "
            "`python -m titok_hf.training.classifier` trains a small classifier of your own."
        ) from error
