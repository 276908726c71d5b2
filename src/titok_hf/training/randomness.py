"""Random numbers that depend on the seed and the step alone, not on the number of processes or on what came before."""

import numpy as np
import torch


class StepRandomness:
    """
    The random numbers of one batch. They are drawn for the global batch, and each process takes those of its own
    examples, so that several processes train as one with their batches together would, and a resumed run as one that
    never stopped.

    Args:
        seed: the recipe's.
        position: number of the batch in the run.
        process_index, num_processes: this process among all; its examples are every `num_processes`-th of the batch.
        device: where the numbers are wanted.
    """

    def __init__(self, seed: int, position: int, process_index: int, num_processes: int, device: torch.device):
        self.process_index, self.num_processes, self.device = process_index, num_processes, device
        state = np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0]
        self._generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))

    def uniform(self, batch_size: int, *shape: int) -> torch.Tensor:
        """Draws from [0, 1) for the examples of this process, float32, shape (batch_size, *shape)."""
        return self._own(torch.rand(batch_size * self.num_processes, *shape, generator=self._generator))

    def generators(self, batch_size: int) -> list[torch.Generator]:
        """One generator for each example of this process, on the CPU."""
        bounds = (batch_size * self.num_processes,)
        seeds = torch.randint(2**63 - 1, bounds, generator=self._generator)
        own = seeds[self.process_index :: self.num_processes]
        return [torch.Generator().manual_seed(seed) for seed in own.tolist()]

    def _own(self, draws: torch.Tensor) -> torch.Tensor:
        return draws[self.process_index :: self.num_processes].to(self.device)


__all__ = ["StepRandomness"]
