"""The codebook in training: how much of it is used, and the reinitialisation of unused codes (arXiv 2307.15139)."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from titok_hf.evaluation.reconstruction import CodebookUsage
from titok_hf.quantization_titok import VectorQuantizer


class CodebookCounter:
    """
    Counts codes over batches and processes. The counts since the last entry are part of the training state.

    Args:
        codebook_size: entries of the codebook.
        accelerator: whose processes count together.
    """

    def __init__(self, codebook_size: int, accelerator: Accelerator):
        self.accelerator = accelerator
        self.histogram = torch.zeros(codebook_size, dtype=torch.int64, device=accelerator.device)
        self._of_all_processes = self.histogram

    def update(self, codes: torch.Tensor, counted: bool | torch.Tensor = True) -> None:
        """Adds codes of any shape, int64, on the accelerator's device, if `counted` is true; without a wait for it."""
        codes = codes.flatten()
        self.histogram.scatter_add_(0, codes, torch.ones_like(codes) * counted)

    def compute(self) -> dict[str, float]:
        """`codes_used` and `codebook_perplexity` of all processes since the last call; nothing if there were none."""
        histogram = self.accelerator.reduce(self.histogram, "sum").cpu()
        self.histogram = torch.zeros_like(self.histogram)
        if not histogram.any():
            return {}
        usage = CodebookUsage.from_histogram(histogram)
        return {"codes_used": usage.num_used, "codebook_perplexity": usage.perplexity}

    def gather(self) -> None:
        """Adds up the counts of all processes, to be saved."""
        self._of_all_processes = self.accelerator.reduce(self.histogram.clone(), "sum")

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"histogram": self._of_all_processes}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        # The main process takes the counts of all, since the number of processes may have changed.
        is_first = self.accelerator.is_main_process
        self.histogram = state["histogram"].to(self.histogram.device) * is_first


def trains_codebook(quantizer: nn.Module) -> bool:
    """Whether a quantiser has a codebook that is trained; in stage 2 it is frozen."""
    return isinstance(quantizer, VectorQuantizer) and quantizer.codebook.weight.requires_grad


class CodebookReinitializer:
    """
    Moves rarely used entries, in each optimiser step, towards the closest tokens of the global batch (CVQ-VAE, eq. 5
    to 7, the "closest" sampling). An entry with its fair share of the tokens stays, one with none is replaced.

    The usage average is part of the training state, in accelerate's protocol.

    Args:
        quantizer: that of the model in training.
        accelerator: usage and tokens are pooled over its processes, so that all of them move entries alike.
        decay: of the running average of each entry's share of tokens.
    """

    def __init__(self, quantizer: VectorQuantizer, accelerator: Accelerator, decay: float = 0.99):
        self.codebook = quantizer.codebook
        self.normalize = quantizer.normalize
        self.accelerator = accelerator
        self.decay = decay
        self.usage = torch.zeros(self.codebook.num_embeddings, device=self.codebook.weight.device)
        self._tokens: list[torch.Tensor] = []  # float32, of each batch since the last step, (tokens, codebook_dim)
        self._codes: list[torch.Tensor] = []  # their codes, (tokens,)
        quantizer.register_forward_hook(self._observe)

    def _observe(self, quantizer: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        if quantizer.training:
            self._tokens.append(inputs[0].detach().float().flatten(0, 1))  # (B * K, D)
            self._codes.append(output.codes.flatten())

    @torch.no_grad()
    def step(self, finite: bool | torch.Tensor = True) -> None:
        """Moves the entries by the batches since the last step, if `finite` is true. Called before the optimiser's
        step, so that tokens are compared with the codebook that gave them their codes."""
        entries, codes = self.codebook.weight, torch.cat(self._codes)
        finite = torch.as_tensor(finite, device=entries.device)
        # Not torch.bincount, which waits for the device.
        counts = codes.new_zeros(len(entries)).scatter_add_(0, codes, torch.ones_like(codes)).to(entries.dtype)
        counts = self.accelerator.reduce(counts, "sum")
        self.usage.copy_(torch.where(finite, self.usage.lerp(counts / counts.sum(), 1 - self.decay), self.usage))
        anchors = self._closest_of_all_processes(*self._closest(entries))
        # eq. 6: the pull vanishes once an entry has a hundredth of its fair share of the tokens.
        pull = torch.exp(-self.usage * len(entries) * 10 / (1 - self.decay) - 1e-3)[:, None]
        entries.copy_(torch.where(finite, entries.lerp(anchors.to(entries.dtype), pull), entries))
        self._tokens, self._codes = [], []

    def _closest(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each entry the distance of the closest token of this process, (codebook_size,), and that token."""
        entries = self.normalize(entries.float())
        nearest = torch.full_like(entries[:, 0], torch.inf)
        closest = torch.zeros_like(entries)
        for tokens in map(self.normalize, self._tokens):  # one batch after the other: distances are a large matrix
            distances = tokens.square().sum(dim=1, keepdim=True) + entries.square().sum(dim=1) - 2 * tokens @ entries.T
            smallest, index = distances.min(dim=0)
            closest = torch.where((smallest < nearest)[:, None], tokens[index], closest)
            nearest = torch.minimum(smallest, nearest)
        return nearest, closest

    def _closest_of_all_processes(self, distances: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """For each entry the closest token of all processes, (codebook_size, dim)."""
        if self.accelerator.num_processes == 1:
            return tokens
        distances = self.accelerator.gather(distances[None])  # (P, C)
        tokens = self.accelerator.gather(tokens[None])  # (P, C, D)
        return tokens[distances.argmin(dim=0), torch.arange(tokens.shape[1], device=tokens.device)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"usage": self.usage}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.usage.copy_(state["usage"])
