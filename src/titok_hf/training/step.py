"""One optimiser step: forward, loss, backward, clip, check, step."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn

from .configs import OptimizationConfig
from .optimization import make_optimizer, make_schedule
from .rng import StepRng
from .task import Batch, ModelLosses, Scalars, Task

# Where each process holds only a part of the weights.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class NotFiniteError(FloatingPointError):
    """A loss or gradients are not finite. Raised before weights or optimisers have changed."""


class Learner:
    """
    A module, the optimiser that trains it, and its learning rate.

    Args:
        module: what is trained.
        optimization: how.
        accelerator: wraps module and optimiser for this process.
    """

    def __init__(self, module: nn.Module, optimization: OptimizationConfig, accelerator: Accelerator):
        self.max_grad_norm = optimization.max_grad_norm
        self.accelerator = accelerator
        optimizer = make_optimizer(module, optimization)
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        # Not prepared: a prepared schedule advances once a process in each step, so it would end too early.
        self.schedule = make_schedule(
            optimizer, optimization.num_steps, optimization.warmup_steps, optimization.end_learning_rate
        )

    def clip(self) -> torch.Tensor:
        """Scales gradients down to the largest norm allowed; returns their norm before that."""
        if self.accelerator.distributed_type in SHARDED:
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
            # DeepSpeed clips by its own configuration and returns a number, or None before its first step.
            return torch.as_tensor(0.0 if norm is None else norm, device=self.accelerator.device)
        # accelerator.clip_grad_norm_ would unscale the fp16 gradients of every optimiser, even if they are incomplete
        # or unscaled already.
        self.accelerator.unscale_gradients(self.optimizer)
        return nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)

    def step(self, overflows: bool) -> None:
        """One optimiser step with the accumulated gradients; fp16 skips it where they overflow."""
        scaler = self.accelerator.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            # accelerate's own step would also update the scale, which all optimisers share, once for each optimiser.
            scaler.step(_unwrapped(self.optimizer))
        self.optimizer.zero_grad()
        if not overflows and not self.optimizer.step_was_skipped:
            self.schedule.step()


def train_step(
    task: Task, learners: dict[str, Learner], batches: list[Batch], accelerator: Accelerator, seed: int, step: int
) -> Scalars:
    """
    One optimiser step of the model and, when its training has begun, of the discriminator. Gradients are accumulated
    over the batches: the step equals the step over one batch of all their examples.

    Args:
        task: gives the losses.
        learners: `model`, and `discriminator` where there is one.
        batches: on the device, of equal size.
        seed, step: what the step's random numbers depend on; `step` is the number of steps done so far.
    Returns:
        what is logged, means over the batches of this process.
    Raises:
        NotFiniteError: in all processes. Weights, optimisers, schedules and the task have not changed.
    """
    _seed_dropout(seed, step, accelerator.process_index)
    model, last = learners["model"], len(batches) - 1
    of_batches: list[ModelLosses] = []
    for index, batch in enumerate(batches):
        rank, world_size = accelerator.process_index, accelerator.num_processes
        rng = StepRng(seed, step, rank, world_size, accelerator.device, index, len(batches))
        with _gradients_shared(accelerator, model.module, index == last):
            losses = task.model_losses(model.module, batch, rng, step)
            accelerator.backward(losses.scalars["loss"])
        of_batches.append(losses.detached())
        del losses  # and its activations, before the next batch
    scalars = {"model": _mean_of([losses.scalars for losses in of_batches]) | {"grad_norm": model.clip()}}

    if task.discriminator_learns(step):
        discriminator, discriminator_scalars = learners["discriminator"], []
        for index, losses in enumerate(of_batches):
            with _gradients_shared(accelerator, discriminator.module, index == last):
                own = task.discriminator_losses(discriminator.module, losses.images, losses.reconstructions)
                accelerator.backward(own["loss"])
            discriminator_scalars.append({name: value.detach() for name, value in own.items()})
        scalars["discriminator"] = _mean_of(discriminator_scalars) | {"grad_norm": discriminator.clip()}

    overflows = check_finite(scalars, accelerator)  # the only wait for the device in a step
    task.before_step()
    for name in scalars:
        learners[name].step(overflows[name])
    if accelerator.scaler is not None:
        accelerator.scaler.update()
    prefixes = {"model": "", "discriminator": "discriminator/"}
    return {prefixes[name] + key: value for name, own in scalars.items() for key, value in own.items()}


def check_finite(scalars: dict[str, Scalars], accelerator: Accelerator) -> dict[str, bool]:
    """
    Stops a step that would ruin the weights, in all processes.

    Args:
        scalars: `loss` and `grad_norm` of each module that is about to step.
    Returns:
        by module, whether its gradients overflow in fp16: the scaler then skips its step and lowers the scale.
    Raises:
        NotFiniteError: a module's loss is not finite, or its gradients are not and the scale cannot get lower.
    """
    losses = accelerator.reduce(torch.stack([own["loss"].float() for own in scalars.values()]), "mean")
    norms = torch.stack([own["grad_norm"].float() for own in scalars.values()])
    scaler = accelerator.scaler
    overflows = {}
    for name, loss, norm in zip(scalars, *torch.stack([losses, norms]).tolist(), strict=True):
        if not math.isfinite(loss):
            raise NotFiniteError(f"The {name}'s loss is {loss}")
        overflows[name] = not math.isfinite(norm)
        if overflows[name] and (scaler is None or scaler.get_scale() < 1):
            raise NotFiniteError(f"The {name}'s gradients' norm is {norm}")
    return overflows


@contextmanager
def _gradients_shared(accelerator: Accelerator, module: nn.Module, is_last: bool) -> Iterator[None]:
    """Processes share their gradients only in the last batch of a step. Set here, because accelerate's own count is
    wrong once a resumed run accumulates another number of batches."""
    accelerator.sync_gradients = is_last
    with nullcontext() if is_last else accelerator.no_sync(module):
        yield
    accelerator.sync_gradients = True


def _mean_of(of_batches: list[Scalars]) -> Scalars:
    return {name: torch.stack([each[name] for each in of_batches]).mean() for name in of_batches[0]}


def _seed_dropout(seed: int, step: int, process_index: int) -> None:
    """Dropout depends only on seed, step and process, so that a failed step can be repeated."""
    state = np.random.SeedSequence([seed, step, process_index]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state >> np.uint64(1)))


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer
