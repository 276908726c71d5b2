"""Random numbers that depend on the seed and the step alone, not on the number of processes or on what came before."""

import numpy as np
import torch


class StepRandomness:
    """
    The random numbers of one optimiser step. They are drawn for the global batch, and each process takes those of its
    own examples, so that several processes, or several batches whose gradients are added up, train as one large batch
    would, and a resumed run as one that never stopped.

    Args:
        seed: the recipe's.
        position: number of the step in the run.
        process_index, num_processes: this process among all; its examples are every `num_processes`-th of the batch.
        device: where the numbers are wanted.
        batch_index, num_batches: which of the batches that a process adds up for the step; they follow one another
            among its examples, and are of equal size.
    """

    def __init__(
        self,
        seed: int,
        position: int,
        process_index: int,
        num_processes: int,
        device: torch.device,
        batch_index: int = 0,
        num_batches: int = 1,
    ):
        self.process_index, self.num_processes, self.device = process_index, num_processes, device
        self.batch_index, self.num_batches = batch_index, num_batches
        state = np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0]
        self._generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))

    @property
    def num_shares(self) -> int:
        """Into how many batches of equal size the global batch is split, over processes and over time."""
        return self.num_processes * self.num_batches

    def draw(self, batch_size: int, *shape: int) -> torch.Tensor:
        """Draws from [0, 1) for all examples of the step, on the CPU: shape (batch_size * num_shares, *shape)."""
        return torch.rand(batch_size * self.num_shares, *shape, generator=self._generator)

    def own(self, draws: torch.Tensor) -> torch.Tensor:
        """Those of this batch, of numbers for all examples of the step."""
        return draws[self.process_index :: self.num_processes].chunk(self.num_batches)[self.batch_index]

    def uniform(self, batch_size: int, *shape: int) -> torch.Tensor:
        """Draws from [0, 1) for the examples of this batch, on the device, float32, shape (batch_size, *shape)."""
        return self.own(self.draw(batch_size, *shape)).to(self.device)

    def generators(self, batch_size: int) -> list[torch.Generator]:
        """One generator for each example of this batch, on the CPU."""
        seeds = torch.randint(2**63 - 1, (batch_size * self.num_shares,), generator=self._generator)
        return [torch.Generator().manual_seed(seed) for seed in self.own(seeds).tolist()]


__all__ = ["StepRandomness"]
