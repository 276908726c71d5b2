"""Which settings of the scheduler belong to which sampler."""

from collections.abc import Mapping
from typing import Any

SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "confidence": ("temperature",),
    "moment": ("temperature",),
    "ordered": ("token_order",),
    "entropy-bounded": ("entropy_bound",),
    "remdm": ("remask", "eta", "loop_interval", "loop_known_share"),
}
"""The settings that only some samplers use. Samplers without a temperature draw codes from the softmax itself."""


def used_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration without the settings that its sampler does not use."""
    used = SETTINGS_OF.get(config.get("sampler", "confidence"), ())
    others = {name for names in SETTINGS_OF.values() for name in names} - set(used)
    return {name: value for name, value in config.items() if name not in others}
