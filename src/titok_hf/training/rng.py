"""Random numbers that depend only on the seed and the step, not on the number of processes or on earlier steps."""

import numpy as np
import torch

from titok_hf.devices import moved_without_wait


class StepRng:
    """
    The random numbers of one optimiser step. They are drawn for the global batch, of which each process takes those of
    its own examples. So several processes, or several accumulated batches, train like one large batch, and a resumed
    run trains like one that was never interrupted.

    Args:
        seed: the recipe's.
        step: number of optimiser steps done so far.
        rank, world_size: of this process; its examples are every `world_size`-th of the global batch.
        device: where the numbers are needed.
        batch_index, num_batches: which of the accumulated batches of this process; they are consecutive examples of
            the process, and of equal size.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        rank: int,
        world_size: int,
        device: torch.device,
        batch_index: int = 0,
        num_batches: int = 1,
    ):
        self.rank, self.world_size, self.device = rank, world_size, device
        self.batch_index, self.num_batches = batch_index, num_batches
        state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
        self._generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))

    @property
    def num_shares(self) -> int:
        """Number of equal batches into which the global batch is split, over processes and accumulation."""
        return self.world_size * self.num_batches

    def draw(self, batch_size: int, *shape: int) -> torch.Tensor:
        """Uniform draws from [0, 1) for the global batch, on the CPU: shape (batch_size * num_shares, *shape)."""
        return torch.rand(batch_size * self.num_shares, *shape, generator=self._generator)

    def own(self, draws: torch.Tensor) -> torch.Tensor:
        """The numbers of this batch, given those of the global batch."""
        return draws[self.rank :: self.world_size].chunk(self.num_batches)[self.batch_index]

    def integer(self, lowest: int, highest: int) -> int:
        """A uniform integer in [lowest, highest], the same for all processes and accumulated batches of the step."""
        return int(torch.randint(lowest, highest + 1, (), generator=self._generator))

    def uniform(self, batch_size: int, *shape: int) -> torch.Tensor:
        """Uniform draws from [0, 1) for this batch, on the device, float32, shape (batch_size, *shape)."""
        return moved_without_wait(self.own(self.draw(batch_size, *shape)), self.device)

    def generators(self, batch_size: int) -> list[torch.Generator]:
        """One generator for each example of this batch, on the CPU."""
        seeds = torch.randint(2**63 - 1, (batch_size * self.num_shares,), generator=self._generator)
        return [torch.Generator().manual_seed(seed) for seed in self.own(seeds).tolist()]
