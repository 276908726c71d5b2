"""The numbers of classifier-free guidance: this package's, the original's, and those of checkpoints saved earlier.

This package writes guidance as diffusers does, `unconditional + scale (conditional - unconditional)`: a scale of 1 is
no guidance. The original counts from the conditional logits where the schedule is constant or linear,
`conditional + scale (conditional - unconditional)`: 0 is no guidance there, and each scale is smaller by 1. Its
power-cosine schedule has the form of diffusers.
"""

from collections.abc import Mapping
from typing import Any

NO_GUIDANCE = 1.0
"""The scale that leaves the conditional logits as they are."""

NO_GUIDANCE_KEY = "_no_guidance"
"""Where a saved scheduler records `NO_GUIDANCE`. Without it, its scale is in the original's numbers."""

_FROM_CONDITIONAL = ("constant", "linear")
_DIGITS = 12  # far below any digit that a person writes, and above the rounding of one addition


def from_original(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Scheduler settings whose `guidance_scale` is in the original's numbers, in this package's.

    Args:
        settings: arguments of `MaskGitScheduler`. A scale that is not a number stays for the scheduler to refuse.
    """
    settings, scale = dict(settings), settings.get("guidance_scale")
    from_conditional = settings.get("guidance_schedule", "constant") in _FROM_CONDITIONAL
    if from_conditional and isinstance(scale, int | float) and not isinstance(scale, bool):
        settings["guidance_scale"] = round(scale + NO_GUIDANCE, _DIGITS)
    return settings


def original_scale(settings: Mapping[str, Any]) -> float:
    """The original's number for the guidance of a scheduler's configuration, the inverse of [`from_original`]."""
    scale = max(settings["guidance_scale"], NO_GUIDANCE)  # below is no guidance here, but would be some there
    if settings["guidance_schedule"] in _FROM_CONDITIONAL:
        return round(scale - NO_GUIDANCE, _DIGITS)
    return scale


def with_present_scale(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    A scheduler's saved configuration, in this package's numbers whichever version saved it.

    Args:
        config: what `scheduler_config.json` holds. A plain dictionary of settings, which names no class, stays as it
            is.
    """
    if "_class_name" not in config or NO_GUIDANCE_KEY in config:
        return dict(config)
    return from_original(config) | {NO_GUIDANCE_KEY: NO_GUIDANCE}
