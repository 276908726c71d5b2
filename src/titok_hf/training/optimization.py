"""AdamW and its learning rate, for every recipe and for the discriminator."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from .configs import OptimizationConfig

# Embedding-like parameters are not decayed: the published recipes exclude every name that contains one of these. The
# decoder's input projection is among them, because the original calls it an embedding.
_NOT_DECAYED = ("norm", "token", "embedding", "codebook", "bias", "decoder.input_projection")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    AdamW's two groups: matrices and kernels decay; vectors and embedding-like parameters do not. Frozen parameters are
    in neither.

    Args:
        module: whose parameter names decide which of them are like embeddings.
        weight_decay: of the first group.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not any(part in name for part in _NOT_DECAYED)
            groups[decays].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


def make_optimizer(module: nn.Module, optimization: OptimizationConfig) -> torch.optim.AdamW:
    """AdamW over the parameters of `module` that train, at the recipe's peak learning rate. Its epsilon is 1e-8."""
    return torch.optim.AdamW(
        parameter_groups(module, optimization.weight_decay),
        lr=optimization.learning_rate,
        betas=optimization.betas,
        fused=True,
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, num_steps: int, warmup_steps: int, end_learning_rate: float
) -> LRScheduler:
    """
    Linear warm-up from 0 to the optimizer's learning rate, then a half cosine to `end_learning_rate`.

    It counts optimiser steps. Do not pass it to `Accelerator.prepare`, whose schedules advance once a process.

    Args:
        num_steps: optimiser steps until the end; after it, the cosine rises again.
        warmup_steps: optimiser steps of the linear part, among the `num_steps`.
    """
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, num_warmup_steps=warmup_steps, num_training_steps=num_steps, min_lr=end_learning_rate
    )


class AveragedWeights(EMAModel):
    """diffusers' averaged weights, which stay as they are after a step that was not taken."""

    @torch.no_grad()
    def step(self, parameters: Sequence[nn.Parameter], taken: torch.Tensor | None = None) -> None:
        """
        Args:
            parameters: those that are averaged, in the order of the constructor.
            taken: whether the step changed them, a bool scalar on their device, which is not read here.
        """
        if taken is None:
            super().step(parameters)
            return
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        pairs = list(zip(self.shadow_params, parameters, strict=True))
        frozen = [pair for pair in pairs if not pair[1].requires_grad]
        if frozen:
            torch._foreach_copy_(*map(list, zip(*frozen, strict=True)))
        averages, weights = map(list, zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True))
        distances = torch._foreach_sub(averages, weights)
        torch._foreach_mul_(distances, taken.to(distances[0].dtype))
        torch._foreach_sub_(averages, distances, alpha=1 - self.cur_decay_value)
