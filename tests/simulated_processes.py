"""Several processes in one: what a loss computes where its means are taken over all of them."""

from collections.abc import Callable
from typing import Any

import torch

from titok_hf.training.adversarial import MeanOverProcesses


def on_each_process(compute: Callable[[Any, MeanOverProcesses], Any], shares: list[Any]) -> list[Any]:
    """
    `compute(share, mean_over_processes)` for each process's share of a batch.

    A rehearsal shows what each process gives to its reductions; the performance answers them with the means. So what
    is reduced must not depend on an earlier reduction.
    """
    given: list[list[torch.Tensor]] = []
    for share in shares:
        given.append([])
        compute(share, lambda tensor: given[-1].append(tensor.clone()) or tensor)
    means = [torch.stack(tensors).mean(dim=0) for tensors in zip(*given, strict=True)]
    results = []
    for share in shares:
        answers = iter(means)
        results.append(compute(share, lambda tensor, answers=answers: next(answers)))
        assert next(answers, None) is None
    return results
