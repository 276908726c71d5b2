"""
Training in float64, where two ways to the same sum differ too little to choose another code; and proof of ties.

As a script, under `torchrun`: the trainer's own command, in float64.

    torchrun --nproc_per_node 2 tests/double_precision.py RECIPE [--set key=value]...
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

# Two distances this near to each other, as a share of the larger one, are a tie: rounding may choose either code.
TIE = 1e-11


@contextmanager
def in_float64() -> Iterator[None]:
    """
    New models and tensors are float64, and so is what the package computes "in float32" (`tensor.float()`).

    In float32 the kernels of a processor, the number of threads and the size of a batch decide the last digits of a
    sum. A token that is nearly as close to a second code then gets another code, and training differs from there on.
    In float64 the differences are 1e-16 of a value, so that runs which should be equal stay equal, on any processor.
    """
    plain_float, plain_dtype = torch.Tensor.float, torch.get_default_dtype()
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = plain_float
        torch.set_default_dtype(plain_dtype)


@contextmanager
def recorded_gaps() -> Iterator[list[float]]:
    """
    For each training forward pass of a quantiser: by how much its closest call was decided.

    The upkeep of a codebook moves several unused entries to the same token, again and again, until they are equal but
    for rounding. No precision decides between these.

    Yields:
        a list that grows by one number a pass: the smallest difference, over all tokens, between the distances to the
        nearest and to the second nearest entry, as a share of the latter.
    """
    gaps: list[float] = []

    @torch.no_grad()
    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        chooses = isinstance(getattr(module, "codebook", None), nn.Embedding) and not isinstance(output, torch.Tensor)
        if not (chooses and module.training and inputs):
            return
        tokens, entries = inputs[0].double(), module.codebook.weight.double()
        if tokens.ndim == 4:
            tokens = tokens.movedim(1, -1)  # a map of tokens (B, D, h, w)
        if getattr(module, "l2_norm", False):
            tokens, entries = F.normalize(tokens, dim=-1), F.normalize(entries, dim=-1)
        distances = torch.cdist(tokens.flatten(0, -2), entries, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, second = distances.topk(2, largest=False).values.unbind(-1)
        gaps.append(((second - nearest) / second.clamp_min(1e-300)).min().item())

    handle = register_module_forward_hook(record)
    try:
        yield gaps
    finally:
        handle.remove()


if __name__ == "__main__":
    from training_runs import train_command

    with in_float64():
        train_command(sys.argv[1:])
