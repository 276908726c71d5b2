"""
Token optimisation: latents are changed by gradient descent through the decoder until the image has what a loss asks.

It needs no generator and no training (arXiv 2506.08257, shown there on TiTok): Adam on the latents, noise on them that
decays, and an average over the steps as the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..accepted_values import real_number, whole_number
from ..modeling_titok import TiTokModel
from ..quantization_titok import noise_like

ImageLoss: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Pixel values, float32, (batch, 3, image_size, image_size), not clamped -> one loss for each image, (batch,)."""

_FIRST_LOSS_SCALE = 2.0**16
"""For models in float16, whose gradients would underflow; halved whenever they overflow."""


@dataclass(frozen=True)
class TokenOptimization:
    """
    Settings. The defaults are those that did best at inpainting with the bundled model (docs/editing.md).

    Args:
        num_steps: steps of Adam.
        learning_rate: of Adam. The paper's is 0.1.
        noise: standard deviation of the noise in the first step, in units of the root mean square of an image's
            latents. It falls with the square of the share of steps that are left, to 0.
        average_decay: of the exponential average over the steps; 0 takes the latents of the last step.

    Raises:
        ValueError: a number outside of its range.
    """

    num_steps: int = 150
    learning_rate: float = 0.1
    noise: float = 1.0
    average_decay: float = 0.98

    def __post_init__(self) -> None:
        whole_number("num_steps", self.num_steps)
        if not real_number("learning_rate", self.learning_rate, lowest=0):
            raise ValueError("learning_rate is 0, which would change nothing. Use a number above 0.")
        real_number("noise", self.noise, lowest=0)
        real_number("average_decay", self.average_decay, lowest=0)
        if self.average_decay >= 1:
            raise ValueError(f"average_decay is {self.average_decay}. Use a number below 1.")


class TokenOptimizer:
    """
    The latents of a batch of images, their average, and one step after the other.

    VQ models are optimised in the space before quantisation: each step decodes the nearest codebook entries, and the
    straight-through estimator carries the gradients to the latents. The latents of KL models are decoded as they are.
    Computation on latents is in float32 whatever the precision of the model. An image depends on no other image of the
    batch, as its loss is its own.

    Args:
        tokenizer: ends in pixels. Its parameters should not require gradients, see [`without_gradients`].
        latents: float, shape (batch, num_latent_tokens, codebook_dim), to start from.
        loss: of the decoded images.
        settings: see [`TokenOptimization`].
        generator: source of the noise; a list has one for each image.
    """

    def __init__(
        self,
        tokenizer: TiTokModel,
        latents: torch.Tensor,
        loss: ImageLoss,
        settings: TokenOptimization,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> None:
        self.tokenizer, self.loss, self.settings, self.generator = tokenizer, loss, settings, generator
        self.latents = latents.detach().float().clone().requires_grad_(True)
        self._optimizer = torch.optim.Adam([self.latents], lr=settings.learning_rate)
        self._sum = torch.zeros_like(self.latents, requires_grad=False)
        first_scale = _FIRST_LOSS_SCALE if tokenizer.dtype == torch.float16 else 1.0
        self._loss_scale = torch.full((len(latents), 1, 1), first_scale, device=latents.device)
        self._num_done = 0

    @property
    def average(self) -> torch.Tensor:
        """The average of the latents over the steps so far, float32, shape of the latents."""
        return self._sum / (1 - self.settings.average_decay**self._num_done)

    def step(self) -> torch.Tensor:
        """One step of Adam, without waiting for the device. Returns the losses before it, float32, (batch,)."""
        left = 1 - self._num_done / self.settings.num_steps
        latents = self.latents
        if self.settings.noise > 0:
            size = latents.detach().square().mean(dim=(1, 2), keepdim=True).sqrt()
            noise = noise_like(latents.detach(), self.generator)
            latents = latents + self.settings.noise * left**2 * size * noise
        losses = self._losses(self._pixel_values(latents))
        (gradient,) = torch.autograd.grad((losses * self._loss_scale.flatten()).sum(), self.latents)
        self._apply(gradient)
        return losses.detach().float()

    def _pixel_values(self, latents: torch.Tensor) -> torch.Tensor:
        if self.tokenizer.config.has_codebook:
            latents = self.tokenizer.quantizer(latents).latents
        decoded = self.tokenizer.decode(latents=latents.to(self.tokenizer.dtype), return_dict=True)
        if decoded.pixel_values is None:
            raise ValueError("This is a stage-1 tokenizer: it ends in proxy codes, not pixels. Use a stage-2 model.")
        return decoded.pixel_values.float()

    def _losses(self, pixel_values: torch.Tensor) -> torch.Tensor:
        losses = self.loss(pixel_values)
        if not isinstance(losses, torch.Tensor) or losses.shape != pixel_values.shape[:1]:
            what = (
                f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else f"type {type(losses).__name__}"
            )
            raise ValueError(
                f"loss returned a value of {what}, but one number for each image is expected, a tensor of shape "
                f"({len(pixel_values)},). Take the mean over the other axes only."
            )
        if not losses.requires_grad:
            raise ValueError("loss returned values without gradients. Compute them in torch from the pixel values.")
        return losses

    @torch.no_grad()
    def _apply(self, scaled_gradient: torch.Tensor) -> None:
        """A step of Adam and of the average. An image whose gradient overflowed stays, and gets a smaller scale."""
        gradient = scaled_gradient / self._loss_scale
        is_finite = gradient.isfinite().flatten(1).all(dim=1).view(-1, 1, 1)
        self._loss_scale = torch.where(is_finite, self._loss_scale, self._loss_scale / 2)
        self.latents.grad = torch.where(is_finite, gradient, 0)
        self._optimizer.step()
        self._num_done += 1
        decay = self.settings.average_decay
        self._sum = decay * self._sum + (1 - decay) * self.latents


@contextmanager
def without_gradients(model: TiTokModel) -> Iterator[None]:
    """Within it a model is in evaluation mode, and its parameters require no gradients; then both are as before."""
    requiring = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    for parameter in requiring:
        parameter.requires_grad_(False)
    model.eval()
    try:
        # Gradients of the latents are needed, whatever the caller has switched off.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in requiring:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def masked_mean_squared_error(target: torch.Tensor, known: torch.Tensor) -> ImageLoss:
    """
    The mean squared error over the known pixels of each image.

    Args:
        target: float, shape (batch, channels, height, width).
        known: bool, shape (batch, 1, height, width); at least one pixel of each image.
    """
    with torch.inference_mode(False):  # tensors of that mode take no part in gradients
        weights = known.float() / (known.sum(dim=(1, 2, 3), keepdim=True) * target.shape[1])

    def loss(pixel_values: torch.Tensor) -> torch.Tensor:
        return ((pixel_values - target).square() * weights).sum(dim=(1, 2, 3))

    return loss


__all__ = ["ImageLoss", "TokenOptimization", "TokenOptimizer", "masked_mean_squared_error", "without_gradients"]
