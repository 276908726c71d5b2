"""
A GPU for tests where there is none: tensors that compute on the CPU and say that they are on another device.

As on a real one, an operation refuses tensors of both devices, but for single numbers and indices. So a test on any
machine fails where code leaves a tensor on the CPU.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

DEVICE_TYPE = "elsewhere"

_aten = torch.ops.aten
# These bring tensors of two devices together on a real GPU too.
_BETWEEN_DEVICES = {_aten.copy_.default, _aten._to_copy.default}
# On a real device, the host waits for these until all that is queued there has run.
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
}
_waits: list[str] | None = None
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it is on that device; `inner` holds its values on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(DEVICE_TYPE, 0),
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"OnDevice({self.inner})"

    def tolist(self) -> Any:
        _note("tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _DeviceMode(TorchDispatchMode):
    """Makes new tensors that are asked for on that device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _ConstructionMode(TorchFunctionMode):
    """`torch.tensor(values, device=...)` copies to the device where no other mode sees it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """The list that it yields gets an entry for each operation for which the host would wait for a real device."""
    global _waits
    before, _waits = _waits, []
    try:
        yield _waits
    finally:
        _waits = before


def _note(what: str) -> None:
    if _waits is not None:
        frames = [frame for frame in traceback.extract_stack() if "titok_hf" in frame.filename]
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "outside"
        _waits.append(f"{what} at {where}")


def _note_waits(function: Any, args: Any, kwargs: dict[str, Any], there: list[OnDevice], wraps: bool) -> None:
    if function in _BETWEEN_DEVICES:
        source = args[1] if function is _aten.copy_.default else args[0]
        non_blocking = kwargs.get("non_blocking", len(args) > 2 and bool(args[2]))
        # A copy to the host has arrived only after a wait, even if it does not block.
        if isinstance(source, OnDevice) != wraps and (isinstance(source, OnDevice) or not non_blocking):
            _note(f"copy of {tuple(source.shape)} {'to' if wraps else 'from'} the device")
    elif there and (function in _WAITING or "unique" in function.__name__):
        _note(function.__name__)
    elif there and function in _INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
        _note("index by a mask")


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    here = [leaf for leaf in leaves if not isinstance(leaf, OnDevice) and leaf.ndim]
    if there and here and function not in _BETWEEN_DEVICES | _INDEXING:
        shapes = [tuple(tensor.shape) for tensor in here]
        raise RuntimeError(f"{function} got tensors of {DEVICE_TYPE}, and of the CPU: shapes {shapes}")
    target = kwargs.get("device")
    wraps = bool(there) if target is None else torch.device(target).type == DEVICE_TYPE
    if function is _aten.copy_.default:
        wraps = isinstance(args[0], OnDevice)
    if _waits is not None:
        _note_waits(function, args, kwargs, there, wraps)
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    originals = {id(leaf.inner): leaf for leaf in there}
    inner_args, inner_kwargs = tree_map(
        lambda leaf: leaf.inner if isinstance(leaf, OnDevice) else leaf, (args, kwargs)
    )
    result = function(*inner_args, **inner_kwargs)

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) in originals:  # what happened in place
            return originals[id(leaf)]
        return OnDevice(leaf) if wraps else leaf

    return tree_map(wrap, result)


class _Backend(_DummyBackendModule):
    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def start() -> torch.device:
    """Makes the device known to this process for good, so a process of its own is the place to call it."""
    _setup_privateuseone_for_python_backend(rename=DEVICE_TYPE, backend_module=_Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `Module.to` puts new parameters in place
    _DeviceMode().__enter__()
    _ConstructionMode().__enter__()
    return torch.device(DEVICE_TYPE, 0)
