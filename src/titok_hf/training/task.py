"""What a kind of model brings to training: its data, its losses, and how it is evaluated and saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from titok_hf.data.loaders import ResumableLoader
from titok_hf.devices import float64_device

from .rng import StepRng

Batch = dict[str, torch.Tensor]
Scalars = dict[str, torch.Tensor]


@dataclass
class ModelLosses:
    """
    The result of the model's forward pass on a batch.

    Args:
        scalars: what is logged; `loss` is minimised.
        images, reconstructions: the input of a discriminator, float, shape (batch, channels, height, width); None
            where the task has no discriminator.
    """

    scalars: Scalars
    images: torch.Tensor | None = None
    reconstructions: torch.Tensor | None = None

    def detached(self) -> "ModelLosses":
        """The same values without their graph, so that its activations are freed."""
        scalars = {name: value.detach() for name, value in self.scalars.items()}
        reconstructions = None if self.reconstructions is None else self.reconstructions.detach()
        return ModelLosses(scalars, self.images, reconstructions)


class Task:
    """
    The base class of all tasks. The training step calls, in this order: `model_losses` for each batch,
    `discriminator_losses` for each batch if `discriminator_learns`, `before_step`, the optimisers, `after_step`.

    Args:
        accelerator: whose processes train together.
        model: what is trained.
        discriminator: trained beside it, or None.
        loader: the training examples.
        best: the measure by which the best model is kept, and whether larger is better.
        data_record: plain values that identify the training and test examples and the frozen models. A resumed run
            must have the same.
    """

    accelerator: Accelerator
    model: nn.Module
    discriminator: nn.Module | None = None
    loader: ResumableLoader
    best: tuple[str, bool] = ("loss", False)
    data_record: dict[str, Any]

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """
        Forward pass and losses of the model. The state of the task may change in `before_step` only, because the step
        may still fail. Nothing here may wait for the device.

        Args:
            model: `self.model`, wrapped for this process.
            batch: of the loader, on the device.
            rng: the source of all random numbers.
            step: number of optimiser steps done so far.
        """
        raise NotImplementedError

    def discriminator_learns(self, step: int) -> bool:
        """Whether the discriminator is trained in this step."""
        return False

    def discriminator_losses(
        self, discriminator: nn.Module, images: torch.Tensor, reconstructions: torch.Tensor
    ) -> Scalars:
        """
        Forward pass and losses of the discriminator; `loss` is minimised.

        Args:
            discriminator: `self.discriminator`, wrapped for this process.
            images, reconstructions: those of a batch, from `model_losses`.
        """
        raise NotImplementedError

    def before_step(self, finite: torch.Tensor) -> None:
        """
        Runs after the backward passes of a step, before the optimisers. It may not wait for the device.

        Args:
            finite: whether losses and gradients of this step and of those before it are finite, a bool scalar on the
                device. If it is False, the state of the task must stay as it is.
        """

    def after_step(self) -> None:
        """Runs after each optimiser step."""

    def summary(self) -> dict[str, float]:
        """Measures of the batches since the last call, over all processes; runs in all of them."""
        return {}

    def evaluate(self) -> tuple[dict[str, float], Image.Image | None]:
        """
        Measures on the test examples with the present weights, equal in all processes, which share the work; an image
        to look at, None in all processes but the first.
        """
        raise NotImplementedError

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Writes the model with these weights in `from_pretrained` format."""
        raise NotImplementedError

    def sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over processes, in all of them, float64 where the device has it, on the CPU."""
        return self.accelerator.reduce(value.to(float64_device(self.accelerator.device)), "sum").cpu()

    def checkpointed(self) -> list[Any]:
        """Further objects with `state_dict` and `load_state_dict` that a resumed run needs."""
        return []
