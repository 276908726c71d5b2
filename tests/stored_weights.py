"""Models whose weights are stored elsewhere, or in eight bits: what they compute must stay the same."""

from pathlib import Path

import accelerate
import torch
import torch.nn.functional as F
from torch import nn

WAYS_TO_OFFLOAD = ("cpu_offload", "disk_offload", "device_map")


def offload(model: nn.Module, way: str, folder: Path) -> nn.Module:
    """
    `model` with its weights on the meta device but for the time that each module's forward takes.

    Args:
        model: on the CPU.
        way: accelerate's function; `"device_map"` keeps the first part on the CPU and the others on disk.
        folder: for weights on disk.
    """
    if way == "device_map":
        first, *others = (name for name, _ in model.named_children())
        device_map = {first: "cpu"} | {name: "disk" for name in others}
        device_map |= {name: "cpu" for name, _ in model.named_parameters(recurse=False)}
        return type(model).from_pretrained(folder, device_map=device_map, offload_folder=folder / "offloaded")
    device = torch.device("cpu")
    if way == "disk_offload":
        accelerate.disk_offload(model, folder / "offloaded", execution_device=device)
    else:
        accelerate.cpu_offload(model, execution_device=device)
    assert all(parameter.is_meta for parameter in model.parameters())
    return model


class EightBitLayer(nn.Module):
    """A linear layer or convolution whose `weight` is an int8 parameter, as bitsandbytes' and others' is."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.original = [layer]  # in a list, so that its weight is no parameter of the model any more
        self.scale = layer.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((layer.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        (layer,) = self.original
        weight = self.weight.to(inputs.dtype) * self.scale
        if isinstance(layer, nn.Linear):
            return F.linear(inputs, weight, layer.bias)
        return F.conv2d(inputs, weight, layer.bias, layer.stride, layer.padding)


def store_in_eight_bits(model: nn.Module) -> dict[str, EightBitLayer]:
    """Replaces every linear layer and convolution in place, and returns what stands there now."""
    layers = {name: EightBitLayer(m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return layers
