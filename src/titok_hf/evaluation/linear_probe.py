"""
How much of an image's class a linear classifier reads from its frozen tokens (arXiv 2406.07550, section 4.2).

The paper reports that the fewer tokens an image has, the more of its class they tell. The classifier is a logistic
regression on standardised features with an L2 penalty, solved to the minimum, so that no learning rate and no random
number decides the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from titok_hf.devices import float64_device
from titok_hf.modeling_titok import TiTokModel

Features = Literal["encoder", "quantized"]
Pooling = Literal["mean", "concatenation"]
FEATURES: tuple[Features, ...] = ("encoder", "quantized")
POOLINGS: tuple[Pooling, ...] = ("mean", "concatenation")
L2 = 1e-4
MAX_ITERATIONS = 1000

Batches = Iterable[tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class ProbeResult:
    """
    Args:
        features: `"encoder"`, the latent tokens that leave the ViT encoder, before they are projected to the size of
            the codes; or `"quantized"`, the vectors that the decoder gets (for KL models the mean).
        pooling: `"mean"` over the tokens of an image, or their `"concatenation"`.
        num_features: numbers that the classifier gets of an image.
        train_accuracy, test_accuracy: share of images whose class is named right, in [0, 1].
        converged: whether the minimum was found within the iterations.
    """

    features: Features
    pooling: Pooling
    num_features: int
    train_accuracy: float
    test_accuracy: float
    converged: bool


@torch.no_grad()
def token_features(model: TiTokModel, pixel_values: torch.Tensor) -> dict[Features, torch.Tensor]:
    """
    The tokens of images, for a frozen model.

    Args:
        pixel_values: float in [0, 1], shape (batch, 3, image_size, image_size), on the model's device.
    Returns:
        `"encoder"`, float32, shape (batch, num_latent_tokens, encoder_hidden_size); `"quantized"`, float32, shape
        (batch, num_latent_tokens, codebook_dim).
    Raises:
        ValueError: tokens that are not finite, or images of another size.
    """
    with _output_of_the_encoder(model) as seen:
        latents = model.encode(pixel_values, sample_posterior=False, return_dict=True).latents
    return {"encoder": seen[-1].float(), "quantized": latents.float()}


def linear_probe(
    model: TiTokModel, train: Batches, test: Batches, num_classes: int, l2: float = L2
) -> list[ProbeResult]:
    """
    Trains a classifier for each kind of features and each pooling, and counts what it names right.

    All features are kept in memory, `num_latent_tokens * encoder_hidden_size` numbers an image: 4 bytes each, and 8
    more for those that a classifier is learning from. In float32 it would not reach the minimum where features are
    nearly constant.

    Args:
        model: in evaluation mode; its weights do not change.
        train, test: batches of images, uint8, shape (batch, 3, image_size, image_size), and labels, int64, shape
            (batch,), in [0, num_classes).
        l2: weight of half the squared norm of the classifier's weights beside the mean cross-entropy.
    Raises:
        ValueError: no images, labels of fewer than two classes in `train`, a negative `l2`, or tokens that are not
            finite.
    """
    if l2 < 0:
        raise ValueError(f"l2 is {l2}. The weight of the penalty is at least 0.")
    train_tokens, train_labels = _collect(model, train)
    test_tokens, test_labels = _collect(model, test)
    if len(train_labels.unique()) < 2:
        raise ValueError("All training images are of one class. A probe needs at least two classes.")
    results = []
    for features in FEATURES:
        for pooling in POOLINGS:
            inputs, held_out = (
                _pool(tokens[features], pooling).to(float64_device(model.device), torch.float64)
                for tokens in (train_tokens, test_tokens)
            )
            mean, std = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-6)
            inputs, held_out = (inputs - mean) / std, (held_out - mean) / std
            weight, bias, converged = fit_classifier(inputs, train_labels, num_classes, l2)
            on_train, on_test = (
                (F.linear(each, weight, bias).argmax(dim=1) == labels).double().mean().item()
                for each, labels in ((inputs, train_labels), (held_out, test_labels))
            )
            results.append(ProbeResult(features, pooling, inputs.shape[1], on_train, on_test, converged))
    return results


def fit_classifier(
    inputs: torch.Tensor, labels: torch.Tensor, num_classes: int, l2: float
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """
    The logistic regression with the smallest mean cross-entropy + `l2` / 2 |weight|^2, found by L-BFGS from zero.

    Args:
        inputs: float, shape (num_images, num_features).
        labels: int64, shape (num_images,).
    Returns:
        weight, shape (num_classes, num_features); bias, shape (num_classes,); and whether the largest entry of the
        gradient fell below 1e-4.
    """
    weight = torch.zeros(num_classes, inputs.shape[1], dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(inputs, weight, bias), labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
        loss()
    assert weight.grad is not None and bias.grad is not None
    steepest = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    return weight.detach(), bias.detach(), steepest < 1e-4


@contextmanager
def _output_of_the_encoder(model: TiTokModel) -> Iterator[list[torch.Tensor]]:
    """Collects the latent tokens of each forward pass, which leave the encoder's last norm."""
    seen: list[torch.Tensor] = []
    handle = model.encoder.post_norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def _collect(model: TiTokModel, batches: Batches) -> tuple[dict[Features, torch.Tensor], torch.Tensor]:
    tokens: dict[Features, list[torch.Tensor]] = {name: [] for name in FEATURES}
    labels = []
    for images, batch_labels in batches:
        pixel_values = (images.to(model.device).float() / 255).to(model.dtype)
        for name, values in token_features(model, pixel_values).items():
            tokens[name].append(values)
        if batch_labels is None:
            raise ValueError("Some images have no labels, and a probe learns and tests the names of classes.")
        labels.append(batch_labels.to(float64_device(model.device)))
    if not labels:
        raise ValueError("There are no images. A probe needs images to train on and images to test on.")
    return {name: torch.cat(values) for name, values in tokens.items()}, torch.cat(labels)


def _pool(tokens: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(batch, num_latent_tokens, size) -> (batch, num_features)."""
    return tokens.mean(dim=1) if pooling == "mean" else tokens.flatten(1)


__all__ = ["FEATURES", "L2", "POOLINGS", "ProbeResult", "fit_classifier", "linear_probe", "token_features"]
