"""Which values are accepted: pixel values, codes, numbers and generators, the same at every entrance.

Checks of a dtype or of a Python number cost nothing and are made everywhere. Checks that look at the values of a
tensor wait for its device; they are made where a person's data comes in, never in a sampling loop or a training step.
"""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

LARGEST_SIZE = 2**20
"""Above any width, length or number of entries of a network: beyond, memory would run out before any error."""
LARGEST_DEPTH = 2**10
"""Above any number of layers."""


def check_pixel_dtype(pixel_values: torch.Tensor, name: str = "pixel_values") -> None:
    """
    Raises:
        ValueError: anything but floats. Bytes are not divided by 255 here, since 0 and 1 would be ambiguous.
    """
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"{name} has dtype {pixel_values.dtype}, but floats in [0, 1] are expected. Prepare images with "
            "TiTokImageProcessor, or divide bytes by 255."
        )


def check_pixel_range(pixel_values: torch.Tensor, name: str = "pixel_values") -> None:
    """
    Waits for the device.

    Raises:
        ValueError: values outside of [0, 1], or that are no numbers.
    """
    if not pixel_values.numel():
        return
    lowest, highest = torch.stack(torch.aminmax(pixel_values.detach())).tolist()
    if not 0 <= lowest <= highest <= 1:  # so written, it catches NaN too
        raise ValueError(
            f"{name} has values from {lowest:g} to {highest:g}, but 0 to 1 are expected. Rescale or clip it first: "
            "[-1, 1] by (x + 1) / 2, [0, 255] by x / 255."
        )


def integer_codes(codes: torch.Tensor, name: str = "codes") -> torch.Tensor:
    """
    Codes of any integer dtype as int64.

    Raises:
        ValueError: floats, booleans or complex numbers, which a cast would turn into other codes.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {codes.dtype}, but integers are expected.")
    return codes.long()


def check_code_range(codes: torch.Tensor, codebook_size: int, name: str = "codes") -> None:
    """
    Waits for the device.

    Raises:
        ValueError: codes outside of [0, codebook_size).
    """
    if not codes.numel():
        return
    lowest, highest = torch.stack(torch.aminmax(codes)).tolist()
    if not 0 <= lowest <= highest < codebook_size:
        raise ValueError(
            f"{name} span [{lowest}, {highest}], but this model's codes lie in [0, {codebook_size}). "
            "Were they made by another model, or are some still mask tokens?"
        )


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether a program must not branch on values of a tensor: its graph is being traced, or it has no values."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.is_meta or isinstance(tensor, FakeTensor):
        return True
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def can_look_at(tensor: torch.Tensor) -> bool:
    """Whether looking at the values of a tensor costs no wait, and does not break a graph that is being traced."""
    return tensor.device.type == "cpu" and not is_traced(tensor)


def check_finite(is_finite: bool | torch.Tensor, what: str) -> None:
    """
    Args:
        is_finite: whether all values are; a tensor is waited for.
        what: has them, as the subject of a sentence: "The logits of the transformer".
    Raises:
        ValueError: some are NaN or infinite.
    """
    if not is_finite:
        raise ValueError(
            f"{what} are not all finite numbers, so they mean nothing. If the model runs in float16, try bfloat16 or "
            "float32; otherwise its weights are damaged."
        )


def as_integer(value: Any) -> int | None:
    """An integer of any library as an int; None for anything else. A boolean is not the number 1."""
    if _is_boolean(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, lowest: int = 1, highest: int | None = None) -> int:
    """
    `value` as an int.

    Raises:
        ValueError: no integer (a boolean is none), or one outside of [lowest, highest].
    """
    number = as_integer(value)
    if number is None:
        raise ValueError(f"{name} is {value!r}, but an integer is expected.")
    if number < lowest:
        raise ValueError(f"{name} is {number}. Use at least {lowest}.")
    if highest is not None and number > highest:
        raise ValueError(f"{name} is {number}. Use at most {highest}.")
    return number


def real_number(name: str, value: Any, lowest: float = -math.inf, highest: float = math.inf) -> float:
    """
    `value` as a float.

    Raises:
        ValueError: no number (a boolean is none), NaN, an infinite one, or one outside of [lowest, highest].
    """
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


def check_generator(generator: Any) -> None:
    """
    Raises:
        ValueError: neither None nor a `torch.Generator`, such as a seed.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is {generator!r}, but a torch.Generator is expected. For a seed, pass "
            "torch.Generator().manual_seed(seed)."
        )


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


__all__ = [
    "LARGEST_DEPTH",
    "LARGEST_SIZE",
    "as_integer",
    "can_look_at",
    "check_code_range",
    "check_finite",
    "check_generator",
    "check_pixel_dtype",
    "check_pixel_range",
    "integer_codes",
    "is_traced",
    "real_number",
    "whole_number",
]
