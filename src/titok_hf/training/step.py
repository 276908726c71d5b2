"""One optimiser step: forward, loss, backward, clip, check, step."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
    """A loss or gradients are not finite. Weights and optimisers are those before that step."""


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

    def step(self, finite: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """
        One optimiser step with the accumulated gradients, without a wait for the device.

        Args:
            finite: bool scalar on the device; if it is False, weights and the state of the optimiser stay as they are.
            grad_norm: scalar; the same happens where it is not finite, as gradients that overflow in fp16.
        """
        optimizer = _unwrapped(self.optimizer)
        if self.accelerator.distributed_type not in SHARDED:
            # What the gradient scaler does for fused optimisers: their kernels read this value on the device, as
            # float32 whatever the weights are. So the steps of accelerate and of the scaler, which wait for it, are
            # not called.
            optimizer.found_inf = (~(finite & grad_norm.isfinite())).to(torch.float32)
            optimizer.step()
        elif self.accelerator.scaler is None:
            self.optimizer.step()
        else:
            # accelerate's own step would also update the scale, which all optimisers share, once for each optimiser.
            self.accelerator.scaler.step(optimizer)
        self.optimizer.zero_grad()
        self.schedule.step()

    def take_back(self, num_steps: int) -> None:
        """Sets the schedule back by steps that the optimiser has left out."""
        if num_steps:
            self.schedule.last_epoch -= num_steps + 1
            self.schedule.step()


@dataclass
class Checked:
    """
    What the losses and gradients since the last check say.

    Args:
        num_taken: steps before the first failed one.
        left_out: by module, how many steps of its optimiser were left out.
        error: of the first failed step, or None.
    """

    num_taken: int
    left_out: dict[str, int]
    error: NotFiniteError | None = None


class FiniteGuard:
    """
    Keeps a step whose losses or gradients are not finite, and all steps after it, from changing anything, without a
    wait for the device. The host learns of it in `check`.

    Args:
        accelerator: whose processes train together.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
        self._steps: list[tuple[list[str], torch.Tensor]] = []

    def __len__(self) -> int:
        """Number of steps since the last `check`."""
        return len(self._steps)

    def admit(self, scalars: dict[str, Scalars]) -> torch.Tensor:
        """
        Args:
            scalars: `loss` and `grad_norm` of each module that is about to step.
        Returns:
            bool scalar on the device, the same in all processes: whether this step and all steps before it may be
            taken. In fp16, gradients that overflow do not stop a run while the scale can get lower.
        """
        losses = self.accelerator.reduce(torch.stack([own["loss"].float() for own in scalars.values()]), "mean")
        norms = torch.stack([own["grad_norm"].float() for own in scalars.values()])
        scales = torch.zeros_like(norms) if self.accelerator.scaler is None else norms.new_zeros(()) + self._scale()
        scales = scales.expand_as(norms)
        self._finite = self._finite & (losses.isfinite() & (norms.isfinite() | (scales >= 1))).all()
        self._steps.append((list(scalars), torch.stack([losses, norms, scales])))
        return self._finite

    def update_scale(self, finite: torch.Tensor) -> None:
        """Lets the scaler of fp16 choose its next scale; if `finite` is False, the scale stays."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            before = self._scale()
            scaler.update()
            scaler.update(torch.where(finite, self._scale(), before))

    def check(self) -> Checked:
        """Reads the values of the steps since the last check, which waits for the device."""
        steps, self._steps = self._steps, []
        left_out: dict[str, int] = {}
        # One transfer for all of them; modules that did not learn in a step have no column there.
        values = torch.cat([values for _, values in steps], dim=1).T.tolist() if steps else []
        for index, (names, _) in enumerate(steps):
            own, values = values[: len(names)], values[len(names) :]
            for name, (loss, norm, scale) in zip(names, own, strict=True):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"gradients' norm is {norm}"
                overflows = not math.isfinite(norm)
                if not math.isfinite(loss) or (overflows and scale < 1):
                    self._finite = torch.ones_like(self._finite)  # the caller decides whether to go on
                    for later, _ in steps[index:]:
                        for each in later:
                            left_out[each] = left_out.get(each, 0) + 1
                    return Checked(index, left_out, NotFiniteError(f"The {name}'s {what}"))
            for name, (_, norm, _) in zip(names, own, strict=True):
                left_out[name] = left_out.get(name, 0) + (not math.isfinite(norm))
        return Checked(len(steps), left_out)

    def _scale(self) -> torch.Tensor:
        """The present scale of fp16, a copy, on the device."""
        return self.accelerator.scaler.scale(torch.ones((), device=self.accelerator.device))


def train_step(
    task: Task,
    learners: dict[str, Learner],
    batches: list[Batch],
    accelerator: Accelerator,
    guard: FiniteGuard,
    seed: int,
    step: int,
) -> tuple[Scalars, torch.Tensor]:
    """
    One optimiser step of the model and, when its training has begun, of the discriminator. Gradients are accumulated
    over the batches: the step equals the step over one batch of all their examples.

    It does not wait for the device, except where weights are sharded.

    Args:
        task: gives the losses.
        learners: `model`, and `discriminator` where there is one.
        batches: on the device, of equal size.
        guard: where losses or gradients are not finite, in this step or in one since its last check, weights,
            optimisers, buffers and the task do not change.
        seed, step: what the step's random numbers depend on; `step` is the number of steps done so far.
    Returns:
        what is logged, means over the batches of this process; and whether the step was taken, a bool scalar on the
        device.
    Raises:
        NotFiniteError: where weights are sharded, in place of a step that is not taken.
    """
    _seed_dropout(seed, step, accelerator.process_index)
    buffers = [buffer for learner in learners.values() for buffer in learner.module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    scalars = _backward(task, learners, batches, accelerator, seed, step)
    finite = guard.admit(scalars)
    if accelerator.distributed_type in SHARDED and not finite:
        raise NotFiniteError  # the guard has the reason
    for buffer, value in zip(buffers, before, strict=True):  # such as the statistics of a batch normalisation
        buffer.copy_(torch.where(finite, buffer, value))
    task.before_step(finite)
    for name, own in scalars.items():
        learners[name].step(finite, own["grad_norm"])
    guard.update_scale(finite)
    prefixes = {"model": "", "discriminator": "discriminator/"}
    return {prefixes[name] + key: value for name, own in scalars.items() for key, value in own.items()}, finite


def _backward(
    task: Task, learners: dict[str, Learner], batches: list[Batch], accelerator: Accelerator, seed: int, step: int
) -> dict[str, Scalars]:
    """Losses and clipped gradients of the modules that learn in this step: by module, what is logged."""
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
    return scalars


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
