"""Which device to compute on by default, and what Apple GPUs lack."""

from __future__ import annotations

import torch


def default_device(local_rank: int | None = None) -> str:
    """
    The accelerator of this machine ("cuda", "mps", "xpu"), "cpu" if it has none.

    Args:
        local_rank: number of this process on the machine under a launcher, which gives each process a device of its
            own: "cuda:1". An Apple GPU is always one.
    """
    if not torch.accelerator.is_available():
        return "cpu"
    name = torch.accelerator.current_accelerator().type
    return name if local_rank is None or name == "mps" else f"{name}:{local_rank}"


def float64_device(device: torch.device | str) -> torch.device:
    """Where to add numbers up in float64: on `device`, but beside an Apple GPU, which has no float64, on the CPU."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


__all__ = ["default_device", "float64_device"]
