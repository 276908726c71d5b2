"""Models whose weights are offloaded, used through other methods than `forward`, on which the hooks act."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def onloaded(model: nn.Module) -> Iterator[None]:
    """
    Calls what the hooks of accelerate (model and sequential offload, `_hf_hook`) and of diffusers (group offload,
    `_diffusers_hook`) on `model` itself would do around its `forward`. Hooks of its layers act by themselves.
    """
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(model)
    registry = getattr(model, "_diffusers_hook", None)
    # Parameters outside of the offloaded blocks are moved by this hook, if there are any.
    group = None if registry is None else registry.get_hook("group_offloading")
    if group is not None:
        group.pre_forward(model)
    try:
        yield
    finally:
        if group is not None:
            group.post_forward(model, None)


__all__ = ["onloaded"]
