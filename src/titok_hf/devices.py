"""The default device, the device for float64, the name of a device, and transfers to it."""

from __future__ import annotations

import torch


def default_device(local_rank: int | None = None) -> str:
    """
    The accelerator of this machine ("cuda", "mps", "xpu"), or "cpu".

    Args:
        local_rank: of this process under a launcher; selects one of several accelerators ("cuda:1").
    """
    if not torch.accelerator.is_available():
        return "cpu"
    name = torch.accelerator.current_accelerator().type
    return name if local_rank is None or name == "mps" else f"{name}:{local_rank}"


def float64_device(device: torch.device | str) -> torch.device:
    """The device for sums in float64: `device`, or the CPU for an Apple GPU, which has no float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def moved_without_wait(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the CPU on `device`. For a CUDA device it is copied to pinned memory first: only then does the copy
    to the device not wait for what is queued there.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def device_name(device: torch.device | str) -> str:
    """For people: the model of a GPU ("NVIDIA H100 80GB HBM3"), else the kind of the device ("cpu", "mps")."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
