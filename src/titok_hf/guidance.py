"""Guidance: logits are moved away from a weaker prediction, `weaker + scale (prediction - weaker)`.

A scale of 1 gives the prediction itself. The kinds differ in what the weaker prediction is:

- `"classifier-free"` (arXiv 2207.12598): the same model, given no class;
- `"autoguidance"` (arXiv 2406.02507): a weaker model, given the same class: a smaller one, or an early average of the
  weights of the same training run;
- `"previous-step"` (the untrained variant of arXiv 2410.13136): the same model in the step before, when more tokens
  were masked. It needs no further evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .guidance_scales import NO_GUIDANCE

GUIDANCE_KINDS = ("classifier-free", "autoguidance", "previous-step")
GUIDANCE_SCHEDULES = ("constant", "linear", "power-cosine")


def scale_at(progress: float, config: Mapping[str, Any]) -> float:
    """
    The guidance scale of the step that begins at a progress; 1 is no guidance.

    `"constant"`: w. `"linear"` (MUSE, arXiv 2301.00704): 1 + (w - 1) progress. `"power-cosine"` (MDT, arXiv
    2303.14389): 1 + (w - 1) (1 - cos(pi progress^power)) / 2. Outside of the interval (arXiv 2404.07724): 1.

    Args:
        progress: in [0, 1].
        config: of a scheduler; `guidance_scale` is w.
    """
    first, last = config["guidance_interval"] or (0.0, 1.0)
    added = config["guidance_scale"] - NO_GUIDANCE
    if added <= 0 or not first <= progress <= last:
        return NO_GUIDANCE
    if config["guidance_schedule"] == "constant":
        return NO_GUIDANCE + added
    if config["guidance_schedule"] == "linear":
        return NO_GUIDANCE + added * progress
    # float32 as in the original, where the scale of the first of many steps is exactly 1.
    angle = torch.tensor(progress ** config["guidance_power"] * math.pi, dtype=torch.float32, device="cpu")
    return (NO_GUIDANCE + added * (1 - angle.cos()) / 2).item()


def guided(prediction: torch.Tensor, weaker: torch.Tensor, scale: float, schedule: str) -> torch.Tensor:
    """`weaker + scale (prediction - weaker)`, rounded as the original rounds it for a schedule of the scale."""
    if schedule == "power-cosine":
        return weaker + scale * (prediction - weaker)
    return prediction + (scale - NO_GUIDANCE) * (prediction - weaker)
