"""Faster float32 inference on a CPU: other ways to compute the same linear maps and convolutions, chosen by measuring.

PyTorch computes float32 linear layers with MKL, which uses less than half of some processors; on others it is the
fastest there is. So the ways are timed on this machine, on the shapes that occur, when they first occur.

Nothing of a model changes: the ways are chosen for calls of `torch.nn.functional.linear` and `conv2d` while
[`CpuOptimizations`] is active. State dicts, training, compiled and exported models, other devices and other dtypes are
out of its reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.mkldnn import to_mkldnn
from torch.utils.weak import WeakIdKeyDictionary

_ROUNDS = 3
_MEASURED_ROWS = 512
_LEAST_GAIN = 1.1  # a smaller one may be noise

Way = Callable[[torch.Tensor], torch.Tensor]


def _as_convolution(weight: torch.Tensor, bias: torch.Tensor | None) -> Way:
    """A 1 x 1 convolution with channels last, which oneDNN computes."""
    kernel = weight[:, :, None, None]

    def linear(inputs: torch.Tensor) -> torch.Tensor:
        pixels = inputs.reshape(1, -1, 1, inputs.shape[-1]).permute(0, 3, 1, 2)
        return F.conv2d(pixels, kernel, bias).permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], len(weight))

    return linear


def _transposed(weight: torch.Tensor, bias: torch.Tensor | None) -> Way:
    """A product with a transposed copy of the weight, which suits few rows."""
    copy, bias = weight.T.contiguous(), None if bias is None else bias.clone()

    def linear(inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        product = rows @ copy if bias is None else torch.addmm(bias, rows, copy)
        return product.view(*inputs.shape[:-1], copy.shape[1])

    return linear


def _by_onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> Way:
    """`torch.utils.mkldnn`, with a copy of the weight in the layout of oneDNN."""
    layer = nn.Linear(*weight.T.shape, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return to_mkldnn(layer)


LINEAR_WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], Way]] = {
    "plain": lambda weight, bias: lambda inputs: F.linear(inputs, weight, bias),
    "convolution": _as_convolution,
    "transposed": _transposed,
    "onednn": _by_onednn,
}
_WITH_COPIES = ("transposed", "onednn")


def enlarged_convolution(
    features: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Nearest-neighbour enlargement by two and a 3 x 3 convolution with padding 1, as four 2 x 2 convolutions of the
    small image: a 3 x 3 window covers 2 x 2 of its pixels, and which of them depends on whether row and column are
    even. That is 4 / 9 of the multiplications.

    Args:
        features: float, shape (batch, channels, height, width).
        kernel, bias: of the convolution, shapes (out, channels, 3, 3) and (out,).
    Returns:
        shape (batch, out, 2 * height, 2 * width), with channels last.
    """
    batch, _, height, width = features.shape
    output = features.new_empty(batch, height, 2, width, 2, len(kernel))
    for row in (0, 1):
        by_row = _merged(kernel, row, axis=2)
        for column in (0, 1):
            small = _merged(by_row, column, axis=3).contiguous(memory_format=torch.channels_last)
            result = F.conv2d(features, small, bias, padding=1).permute(0, 2, 3, 1)
            output[:, :, row, :, column] = result[:, row : row + height, column : column + width]
    return output.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _merged(kernel: torch.Tensor, parity: int, axis: int) -> torch.Tensor:
    """Three taps become two: an even pixel sees its predecessor once and itself twice, an odd one the reverse."""
    first, second, third = kernel.unbind(axis)
    taps = (first, second + third) if parity == 0 else (first + second, third)
    return torch.stack(taps, dim=axis)


def _plain_enlarged(features: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv2d(F.interpolate(features, scale_factor=2.0, mode="nearest"), kernel, bias, padding=1)


ENLARGED_WAYS = {"plain": _plain_enlarged, "sub-pixel": enlarged_convolution}


class CpuOptimizations(TorchFunctionMode):
    """
    While active (`with optimizations:`), float32 linear maps without gradients on the CPU, and convolutions of an
    image enlarged by two, are computed in the way that was fastest when their shape first occurred.

    Results differ from the plain ones by rounding alone; as the ways are chosen by time, the last bits of a result may
    differ between processes.

    Attributes:
        choices: for each shape that occurred, the way's name and the seconds of all ways.
    """

    def __init__(self) -> None:
        super().__init__()
        self.choices: dict[tuple[Any, ...], tuple[str, dict[str, float]]] = {}
        self._prepared: Any = WeakIdKeyDictionary()
        self._enlarged: tuple[torch.Tensor, torch.Tensor] | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), ()  # a copied or pickled pipeline measures for itself

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func is F.linear and not kwargs and _are_plain(*args):
            return self._linear(*args)
        if func is F.interpolate and _doubles(args, kwargs) and _are_plain(*args):
            self._enlarged = (func(*args, **kwargs), args[0])
            return self._enlarged[0]
        if func is F.conv2d and self._enlarged is not None and args[0] is self._enlarged[0]:
            (_, features), self._enlarged = self._enlarged, None
            if _keeps_size(args, kwargs) and _are_plain(*args[:3]):
                return self._convolution(features, *args[1:3])
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        self._enlarged = None
        super().__exit__(*error)

    def _linear(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        key = ("linear", min(len(rows), _MEASURED_ROWS), *weight.shape)
        if key not in self.choices:
            ways = {name: make(weight.detach(), bias) for name, make in LINEAR_WAYS.items()}
            self.choices[key] = _fastest(ways, rows[:_MEASURED_ROWS])
        name = self.choices[key][0]
        if name not in _WITH_COPIES:
            return LINEAR_WAYS[name](weight, bias)(inputs)
        # Weights may be written to, or given other memory, between two calls.
        state = (name, *((tensor.data_ptr(), tensor._version) for tensor in (weight, bias) if tensor is not None))
        prepared = self._prepared.setdefault(weight, {})
        if prepared.get("state") != state:
            prepared |= {"state": state, "way": LINEAR_WAYS[name](weight.detach(), bias)}
        return prepared["way"](inputs)

    def _convolution(self, features: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        key = ("convolution", *features.shape[1:], len(kernel))
        if key not in self.choices:
            ways = {name: partial(way, kernel=kernel, bias=bias) for name, way in ENLARGED_WAYS.items()}
            self.choices[key] = _fastest(ways, features[:1])
        return ENLARGED_WAYS[self.choices[key][0]](features, kernel, bias)


def _fastest(ways: Mapping[str, Way], inputs: torch.Tensor) -> tuple[str, dict[str, float]]:
    """The name of the fastest way, "plain" if it is about as fast; and the least seconds of each, by turns."""
    seconds = dict.fromkeys(ways, math.inf)
    for _ in range(1 + _ROUNDS):  # the first round warms up; it is slower, so that the minimum leaves it out
        for name, way in ways.items():
            start = time.perf_counter()
            way(inputs)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * _LEAST_GAIN < seconds["plain"] else "plain", seconds


def _are_plain(*tensors: Any) -> bool:
    """Whether they are float32 tensors on the CPU, or None; quantised and other special tensors are not."""
    return all(
        tensor is None
        or type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.numel() > 0
        for tensor in tensors
    )


def _doubles(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the arguments of `interpolate` ask for nearest-neighbour enlargement of images by two."""
    given = {name: value for name, value in kwargs.items() if value}
    return len(args) == 1 and args[0].ndim == 4 and given == {"scale_factor": 2.0, "mode": "nearest"}


def _keeps_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the arguments of `conv2d`, as `nn.Conv2d` gives them, are those of a plain 3 x 3 convolution."""
    options = tuple(args[3:])
    return not kwargs and args[1].shape[2:] == (3, 3) and options == ((1, 1), (1, 1), (1, 1), 1)


class CpuOptimizationsMixin:
    """The two methods of the pipeline, and the context in which it runs its models."""

    _cpu_optimizations: CpuOptimizations | None = None

    def enable_cpu_optimizations(self) -> None:
        """
        Compute float32 models on the CPU by the fastest of several equal ways, measured when a shape first occurs.

        Codes stay the same and pixels differ by rounding. The first call of each batch size takes longer; copies of
        weights, where these are faster, at most double the memory of the models. Models, what is saved of them, and
        everything outside of this pipeline's calls stay as they are; other dtypes and devices are not affected.
        """
        if self._cpu_optimizations is None:
            self._cpu_optimizations = CpuOptimizations()

    def disable_cpu_optimizations(self) -> None:
        """Compute in the plain way again, and free the copies of weights."""
        self._cpu_optimizations = None

    def _fast_on_cpu(self) -> AbstractContextManager[Any]:
        """The context for a forward pass of a model; none for compiled models, which cannot be traced in it."""
        if self._cpu_optimizations is None:
            return nullcontext()
        parts = (getattr(self, name, None) for name in ("tokenizer", "transformer"))
        return nullcontext() if any(map(_is_compiled, parts)) else self._cpu_optimizations


def _is_compiled(model: Any) -> bool:
    """Whether `torch.compile` was applied to a model or a part of it."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None for module in modules
    )
