"""Checks of pixel values, codes, numbers and generators.

Checks of a tensor's values wait for its device: they are for input of a user, not for a sampling or training step.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

# Limits far above the sizes of any network, so that a mistake is an error before memory runs out.
LARGEST_SIZE = 2**20
LARGEST_DEPTH = 2**10


def check_shape(tensor: torch.Tensor, expected: tuple[int, ...], name: str, hint: str) -> None:
    """ValueError unless the shape of a tensor is (batch, *expected); `hint` is a sentence that says what to do."""
    if tensor.ndim != len(expected) + 1 or tensor.shape[1:] != expected:
        sizes = ", ".join(map(str, expected))
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but this model takes (batch, {sizes}). {hint}")


def check_pixel_dtype(pixel_values: torch.Tensor, name: str = "pixel_values") -> None:
    """ValueError for anything but floats. Bytes are not divided by 255, because 0 and 1 would be ambiguous."""
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"{name} has dtype {pixel_values.dtype}, but floats in [0, 1] are expected. Prepare images with "
            "TiTokImageProcessor, or divide bytes by 255."
        )


def check_pixel_range(pixel_values: torch.Tensor, name: str = "pixel_values") -> None:
    """ValueError for values outside of [0, 1], or NaN. Waits for the device."""
    if not pixel_values.numel():
        return
    lowest, highest = torch.stack(torch.aminmax(pixel_values.detach())).tolist()
    if not 0 <= lowest <= highest <= 1:  # so written, it catches NaN too
        raise ValueError(
            f"{name} has values from {lowest:g} to {highest:g}, but 0 to 1 are expected. Rescale or clip it first: "
            "[-1, 1] by (x + 1) / 2, [0, 255] by x / 255."
        )


def integer_codes(codes: torch.Tensor, name: str = "codes") -> torch.Tensor:
    """Codes of any integer dtype as int64; ValueError for floats, booleans and complex numbers."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {codes.dtype}, but integers are expected.")
    return codes.long()


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether the values of a tensor cannot be read: its graph is being traced, or it has no values."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.is_meta or isinstance(tensor, FakeTensor):
        return True
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def check_code_range(codes: torch.Tensor, codebook_size: int, name: str = "codes") -> None:
    """ValueError for codes outside of [0, codebook_size). Waits for the device; not checked while tracing."""
    # On an accelerator too, where an index out of range makes the device unusable for this process.
    if is_traced(codes) or not codes.numel():
        return
    lowest, highest = torch.stack(torch.aminmax(codes)).tolist()
    if not 0 <= lowest <= highest < codebook_size:
        raise ValueError(
            f"{name} span [{lowest}, {highest}], but this model's codes lie in [0, {codebook_size}). "
            "Were they made by another model, or are some still mask tokens?"
        )


def can_look_at(tensor: torch.Tensor) -> bool:
    """Whether reading the values of a tensor neither waits for a device nor breaks a graph that is being traced."""
    return tensor.device.type == "cpu" and not is_traced(tensor)


def check_finite(is_finite: bool | torch.Tensor, what: str) -> None:
    """ValueError unless `is_finite`; `what` has the values ("The logits of the transformer"). Waits for a tensor."""
    if not is_finite:
        raise ValueError(
            f"{what} are not all finite numbers. If the model runs in float16, try bfloat16 or float32; otherwise its "
            "weights are damaged."
        )


def as_integer(value: Any) -> int | None:
    """An integer of any library as an int; None for anything else, booleans included."""
    if _is_boolean(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, lowest: int = 1, highest: int | None = None) -> int:
    """`value` as an int; ValueError if it is no integer, a boolean, or outside of [lowest, highest]."""
    number = as_integer(value)
    if number is None:
        raise ValueError(f"{name} is {value!r}, but an integer is expected.")
    if number < lowest:
        raise ValueError(f"{name} is {number}. Use at least {lowest}.")
    if highest is not None and number > highest:
        raise ValueError(f"{name} is {number}. Use at most {highest}.")
    return number


def real_number(name: str, value: Any, lowest: float = -math.inf, highest: float = math.inf) -> float:
    """`value` as a float; ValueError if it is no number, a boolean, not finite, or outside of [lowest, highest]."""
    if not isinstance(value, Real) or _is_boolean(value):
        raise ValueError(f"{name} is {value!r}, but a number is expected.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, but a finite number is expected.")
    if not lowest <= number <= highest:
        upper = "" if highest == math.inf else f" and at most {highest:g}"
        raise ValueError(f"{name} is {number}. Use at least {lowest:g}{upper}.")
    return number


def check_known(name: str, value: Any, known: Iterable[str]) -> None:
    """ValueError unless a setting is one of the names that exist."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name} is {value!r}, which does not exist. Use one of {known}.")


def check_generator(generator: Any) -> None:
    """ValueError for anything but None and a `torch.Generator`, such as a seed."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is {generator!r}, but a torch.Generator is expected. For a seed, pass "
            "torch.Generator().manual_seed(seed)."
        )


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
