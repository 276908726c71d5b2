"""The random numbers of a sampling step, drawn where the generators are and used where the codes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from .accepted_values import check_generator

Sources: TypeAlias = torch.Generator | list[torch.Generator] | None
"""One source of random numbers, one for each image, or that of the device."""


def gumbel(uniforms: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise from uniform numbers in [0, 1); clamping keeps both logarithms finite."""
    return -(-uniforms.clamp(min=1e-20).log()).clamp(min=1e-20).log()


def uniforms(shape: torch.Size, device: torch.device, generator: Sources) -> torch.Tensor:
    """float32 numbers in [0, 1) of shape (batch, ...); from a list of generators, one for each image."""
    if isinstance(generator, list | tuple):
        if len(generator) != shape[0]:
            raise ValueError(
                f"generator is a list of {len(generator)}, but the batch has {shape[0]} images. Give one for each."
            )
        return torch.cat([uniforms(torch.Size([1, *shape[1:]]), device, each) for each in generator])
    check_generator(generator)
    source = device if generator is None else generator.device
    # Without non_blocking, a copy from the CPU would wait for all work queued on the device.
    return torch.rand(shape, generator=generator, device=source).to(device, non_blocking=True)


@dataclass(frozen=True)
class StepNoise:
    """
    The noise of one step, drawn when it is asked for: a sampler that needs none draws none.

    Args:
        generator: source of uniform numbers.
        given: uniform numbers to use instead, one tensor for codes and one for positions.
    """

    generator: Sources = None
    given: tuple[torch.Tensor, torch.Tensor] | None = None

    def codes(self, logits: torch.Tensor) -> torch.Tensor:
        """Gumbel noise of the shape of the logits: the largest of logits plus noise is a draw from their softmax."""
        return gumbel(self._uniforms(logits, 0))

    def positions(self, like: torch.Tensor) -> torch.Tensor:
        """Uniform numbers of shape (batch, num_latent_tokens)."""
        return self._uniforms(like, 1)

    def _uniforms(self, like: torch.Tensor, index: int) -> torch.Tensor:
        if self.given is not None:
            return self.given[index].to(like.device)
        return uniforms(like.shape, like.device, self.generator)
