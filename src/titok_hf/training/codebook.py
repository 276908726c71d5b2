"""Upkeep of the codebook: entries that nobody uses move to where the tokens are (CVQ-VAE, arXiv 2307.15139)."""

from typing import cast

import torch
from accelerate import Accelerator
from torch import nn

from titok_hf.quantization_titok import TiTokEncoderOutput, TiTokVectorQuantizer


class CodebookReinitializer:
    """
    Watches a quantiser and, after each optimiser step, pulls its rarely used entries towards the closest tokens of the
    batch (CVQ-VAE, eq. 5 to 7, the "closest" sampling): an entry that takes its fair share of tokens stays where
    it is, one that takes none is replaced at once.

    The usage average is part of the training state: `state_dict` and `load_state_dict` are accelerate's protocol.

    Args:
        quantizer: the quantiser of the model in training.
        accelerator: usage and candidates are pooled over its processes, so that all of them move entries alike.
        decay: of the running average of each entry's share of tokens.
    """

    def __init__(self, quantizer: TiTokVectorQuantizer, accelerator: Accelerator, decay: float = 0.99):
        self.quantizer = quantizer
        self.accelerator = accelerator
        self.decay = decay
        self.usage = torch.zeros(quantizer.codebook.num_embeddings, device=quantizer.codebook.weight.device)
        quantizer.register_forward_hook(self._observe)

    def _observe(self, quantizer: nn.Module, inputs: tuple[torch.Tensor, ...], output: TiTokEncoderOutput) -> None:
        if quantizer.training:
            self._tokens = inputs[0].detach().float().flatten(0, 1)  # (B * K, D)
            self._codes = cast(torch.Tensor, output.codes).flatten()  # (B * K,)

    @torch.no_grad()
    def step(self) -> None:
        """Moves the entries, given the last batch that went through the quantiser."""
        codebook = self.quantizer.codebook.weight
        counts = torch.bincount(self._codes, minlength=len(codebook)).to(codebook.dtype)
        counts = self.accelerator.reduce(counts, "sum")
        self.usage.lerp_(counts / counts.sum(), 1 - self.decay)

        tokens = self.quantizer.normalize(self._tokens)
        distances = self.quantizer.distances(tokens[None])[0]  # (B * K, C)
        nearest, index = distances.min(dim=0)
        anchors = self._closest_of_all_processes(nearest, tokens[index])
        # eq. 6: the pull is gone once an entry takes a hundredth of its fair share of the tokens.
        pull = torch.exp(-self.usage * len(codebook) * 10 / (1 - self.decay) - 1e-3)[:, None]
        codebook.lerp_(anchors.to(codebook.dtype), pull)

    def _closest_of_all_processes(self, distances: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """For each entry (axis 0) the token of the process where the closest one lies, shape (codebook_size, dim)."""
        if self.accelerator.num_processes == 1:
            return tokens
        distances = self.accelerator.gather(distances[None])  # (P, C)
        tokens = self.accelerator.gather(tokens[None])  # (P, C, D)
        return tokens[distances.argmin(dim=0), torch.arange(tokens.shape[1], device=tokens.device)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"usage": self.usage}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.usage.copy_(state["usage"])


__all__ = ["CodebookReinitializer"]
