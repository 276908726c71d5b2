"""The share of masked tokens while sampling proceeds, of which training takes the masks of its codes too."""

from __future__ import annotations

import math

import torch

MASK_SCHEDULES = ("arccos", "cosine", "linear", "root")


def mask_ratio(progress: torch.Tensor, mask_schedule: str = "arccos") -> torch.Tensor:
    """Share of masked tokens at a given progress of sampling (MaskGIT, section 3.3).

    Args:
        progress: from 0 (all masked) to 1 (none), float, any shape.
        mask_schedule: `"arccos"`, `"cosine"`, `"linear"` or `"root"`.
    Returns:
        the shares, falling from 1 to 0, in the shape and dtype of `progress`.
    Raises:
        ValueError: an unknown schedule.
    """
    if mask_schedule == "arccos":
        return progress.arccos() / (math.pi / 2)
    if mask_schedule == "cosine":
        return (progress * (math.pi / 2)).cos()
    if mask_schedule == "linear":
        return 1 - progress
    if mask_schedule == "root":
        return 1 - progress.sqrt()
    raise ValueError(f"mask_schedule is {mask_schedule!r}, which does not exist. Use one of {list(MASK_SCHEDULES)}.")


def num_masked(shares: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """The number of tokens that `add_noise` masks: float, shape of `shares`, rounded half to even, at least 1."""
    return (num_tokens * shares).round().clamp(min=1)
