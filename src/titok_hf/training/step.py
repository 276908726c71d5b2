"""One optimiser step, read from top to bottom: forward, loss, backward, clip, check, step."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn

from .configs import OptimizationConfig
from .optimization import make_optimizer, make_schedule
from .randomness import StepRandomness

# Where each process holds a part of the weights only.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)

Batch = dict[str, torch.Tensor]
Scalars = dict[str, torch.Tensor]


class NotFiniteError(FloatingPointError):
    """A loss or gradients are not finite. Raised before anything of the step has changed weights or optimisers."""


class Losses(Protocol):
    """What a step asks of a task; see `Task` for the rest."""

    def losses(
        self, modules: dict[str, nn.Module], batch: Batch, randomness: StepRandomness, step: int
    ) -> Iterator[tuple[str, Scalars]]: ...

    def before_step(self) -> None: ...


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
        # Left unprepared: a prepared schedule advances once a process and step, and would end sooner with several.
        self.schedule = make_schedule(
            optimizer, optimization.num_steps, optimization.warmup_steps, optimization.end_learning_rate
        )

    def clip(self) -> torch.Tensor:
        """Scales gradients down to the largest norm allowed; returns their norm before that, over all processes."""
        if self.accelerator.distributed_type in SHARDED:
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
            # DeepSpeed clips by its own configuration, and gives a number, or nothing before its first step.
            return torch.as_tensor(0.0 if norm is None else norm, device=self.accelerator.device)
        # accelerator.clip_grad_norm_ would undo fp16's scale in the gradients of every optimiser, also of those whose
        # gradients are not complete, or are unscaled already.
        self.accelerator.unscale_gradients(self.optimizer)
        return nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)

    def step(self, overflows: bool) -> None:
        """One optimiser step with the gradients that were added up; fp16 leaves it out where they overflow."""
        scaler = self.accelerator.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            # accelerate's own step would also update the scale, which all optimisers share, once for each of them.
            scaler.step(_unwrapped(self.optimizer))
        self.optimizer.zero_grad()
        if not overflows and not self.optimizer.step_was_skipped:
            self.schedule.step()


def train_step(
    task: Losses, learners: dict[str, Learner], batches: list[Batch], accelerator: Accelerator, seed: int, step: int
) -> Scalars:
    """
    One optimiser step of every module whose turn it is, over batches whose gradients are added up. It equals the step
    over one batch of all their examples.

    Args:
        task: gives the losses.
        learners: `model`, and `discriminator` where there is one, in the order in which they learn.
        batches: on the device, of equal size.
        seed, step: what the step's random numbers depend on; `step` is the number of steps done so far.
    Returns:
        what is logged, means over the batches of this process.
    Raises:
        NotFiniteError: in all processes. Weights, optimisers, schedules and the task are as they were.
    """
    modules = {name: learner.module for name, learner in learners.items()}
    _seed_dropout(seed, step, accelerator.process_index)
    turns = [
        task.losses(modules, batch, _randomness(accelerator, seed, step, index, len(batches)), step)
        for index, batch in enumerate(batches)
    ]

    scalars: dict[str, Scalars] = {}
    for name, learner in learners.items():
        of_batches = []
        for index, turn in enumerate(turns):
            with _gradients_shared(accelerator, learner.module, index == len(turns) - 1):
                _, of_batch = next(turn, (name, None))
                if of_batch is None:
                    break  # the turn of this module comes at a later step
                accelerator.backward(of_batch["loss"])
            of_batches.append({key: value.detach() for key, value in of_batch.items()})
        accelerator.sync_gradients = True
        if of_batches:
            scalars[name] = {key: torch.stack([each[key] for each in of_batches]).mean() for key in of_batches[0]}
            scalars[name]["grad_norm"] = learner.clip()

    overflows = check_finite(scalars, accelerator)
    task.before_step()
    for name in scalars:
        learners[name].step(overflows[name])
    if accelerator.scaler is not None:
        accelerator.scaler.update()
    prefixes = {name: "" if name == "model" else f"{name}/" for name in scalars}
    return {prefixes[name] + key: value for name, own in scalars.items() for key, value in own.items()}


def check_finite(scalars: dict[str, Scalars], accelerator: Accelerator) -> dict[str, bool]:
    """
    Stops a step that would ruin weights; in all processes, since losses and gradients are those of all.

    Args:
        scalars: `loss` and `grad_norm` of each module that is about to step.
    Returns:
        by module, whether its gradients overflow in fp16, whose scaler tries its scale out and leaves that step out.
    Raises:
        NotFiniteError: a module's loss is not finite, or its gradients and no smaller scale is left to try.
    """
    losses = accelerator.reduce(torch.stack([own["loss"].float() for own in scalars.values()]), "mean")
    norms = torch.stack([own["grad_norm"].float() for own in scalars.values()])
    scaler = accelerator.scaler
    overflows = {}
    # The one place of a step that waits for the device.
    for name, loss, norm in zip(scalars, *torch.stack([losses, norms]).tolist(), strict=True):
        if not math.isfinite(loss):
            raise NotFiniteError(f"The {name}'s loss is {loss}")
        overflows[name] = not math.isfinite(norm)
        if overflows[name] and (scaler is None or scaler.get_scale() < 1):
            raise NotFiniteError(f"The {name}'s gradients' norm is {norm}")
    return overflows


def _gradients_shared(accelerator: Accelerator, module: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Processes share their gradients with the last batch of a step alone. Set here and not counted by accelerate,
    whose count goes wrong when a resumed run adds up another number of batches."""
    accelerator.sync_gradients = is_last
    return nullcontext() if is_last else accelerator.no_sync(module)


def _randomness(accelerator: Accelerator, seed: int, step: int, index: int, num_batches: int) -> StepRandomness:
    process, num_processes = accelerator.process_index, accelerator.num_processes
    return StepRandomness(seed, step, process, num_processes, accelerator.device, index, num_batches)


def _seed_dropout(seed: int, step: int, process_index: int) -> None:
    """Each step's dropout depends on seed, step and process alone, so that a step that failed can be done again."""
    state = np.random.SeedSequence([seed, step, process_index]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state >> np.uint64(1)))


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


__all__ = ["SHARDED", "Batch", "Learner", "NotFiniteError", "Scalars", "check_finite", "train_step"]
