"""
Quantisers, between encoder and decoder: a codebook (arXiv 2406.07550) and a diagonal Gaussian (arXiv 2501.07730).

To add one, write a subclass of [`Quantizer`] and add it to [`QUANTIZERS`] under a name for `TiTokConfig.quantizer`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import maybe_autocast

from .accepted_values import can_look_at, check_finite, check_generator, is_traced


class QuantizerConfig(Protocol):
    """The fields of [`TiTokConfig`] that quantisers read."""

    codebook_size: int
    codebook_dim: int
    codebook_l2_norm: bool
    commitment_cost: float | int


@dataclass
class QuantizerOutput(ModelOutput):
    """
    Output of a quantiser.

    Args:
        latents (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_dim)`): the tokens. Of VQ models the
            codebook entries, with gradients to the encoder by the straight-through estimator; of KL models a sample of
            the posterior, or its mean.
        codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`, *optional*): index of each token in the
            codebook, in `[0, codebook_size)`. None for KL models, which have no codebook.
        posterior_mean, posterior_logvar (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_dim)`,
            *optional*): the diagonal Gaussian of KL models, log variance in [-30, 20].
        loss (`torch.FloatTensor`, scalar, *optional*): the quantiser loss, with `return_loss=True`: the sum of
            `commitment_loss` and `codebook_loss`, or `kl_loss`.
        commitment_loss, codebook_loss (`torch.FloatTensor`, scalars, *optional*): the two terms of a vector quantiser,
            times their weights.
        kl_loss (`torch.FloatTensor`, scalar, *optional*): KL divergence from the unit Gaussian in nats, summed over an
            image's tokens (with `num_tokens` its kept tokens), averaged over images.
    """

    latents: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    posterior_mean: torch.FloatTensor | None = None
    posterior_logvar: torch.FloatTensor | None = None
    loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    codebook_loss: torch.FloatTensor | None = None
    kl_loss: torch.FloatTensor | None = None


_FIELDS_OF_TOKENS = ("latents", "codes", "posterior_mean", "posterior_logvar")  # shape (batch, tokens, ...)


class Quantizer(nn.Module):
    """
    Base class. A subclass takes a configuration and defines `forward`; one with codes also `lookup` and `num_tokens`.
    """

    has_codes: ClassVar[bool] = True
    """Whether tokens are codes, integers in [0, num_tokens), rather than vectors of numbers."""

    @property
    def num_tokens(self) -> int | None:
        """Number of different codes, equal to `config.codebook_size`; None without codes."""
        return None

    @staticmethod
    def encoder_channels(config: QuantizerConfig) -> int:
        """Number of channels of the encoder's output."""
        return config.codebook_dim

    def forward(
        self,
        latents: torch.Tensor,
        return_loss: bool = False,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> QuantizerOutput:
        """
        Args:
            latents: tokens from the encoder, float, shape (batch, num_latent_tokens, encoder_channels).
            return_loss: whether to compute the loss and its terms.
            sample_posterior, generator: for quantisers with a distribution of tokens, whether to draw a sample, and
                the source of the noise. Others ignore them.
        Returns:
            `latents` in the dtype of the argument, `codes` if there are any, and on request `loss`.
        """
        raise NotImplementedError

    def keep_first(self, output: QuantizerOutput, num_tokens: int) -> QuantizerOutput:
        """
        The output for the first `num_tokens` tokens of each image. The loss stays that of all tokens, as the authors
        of tail drop train (arXiv 2501.10064).
        """
        kept = {name: output[name][:, :num_tokens] for name in _FIELDS_OF_TOKENS if name in output}
        return QuantizerOutput(**(dict(output) | kept))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents, float32, shape (..., codebook_dim), of int64 `codes` of any shape (...)."""
        raise NotImplementedError

    def check_finite(self, latents: torch.Tensor) -> None:
        """ValueError for tokens that are not finite, on the CPU in evaluation mode; in training the loss shows it."""
        if not self.training and can_look_at(latents):
            check_finite(latents.isfinite().all(), "The tokens of the encoder")


class VectorQuantizer(Quantizer):
    """
    Replaces each token by its nearest codebook entry (VQ-VAE, arXiv 1711.00937), in float32 whatever the model's
    precision, and under autocast.

    Args:
        codebook_size: number of entries.
        codebook_dim: channels of an entry.
        l2_norm: whether both sides are compared on the unit sphere. The stored codebook is not normalised.
        commitment_weight: weight of the loss term that pulls tokens towards their entries.
        codebook_weight: weight of the loss term that pulls entries towards their tokens.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        l2_norm: bool = False,
        commitment_weight: float = 1.0,
        codebook_weight: float = 1.0,
    ):
        super().__init__()
        self.l2_norm = l2_norm
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    @property
    def num_tokens(self) -> int:
        return self.codebook.num_embeddings

    def forward(
        self,
        latents: torch.Tensor,
        return_loss: bool = False,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> QuantizerOutput:
        """See [`Quantizer.forward`]. Returns `latents`, `codes` and, on request, the loss and its two terms."""
        with maybe_autocast(latents.device.type, enabled=False):
            tokens = self.normalize(latents.float())
            with torch.no_grad():
                codes = self.distances(tokens).argmin(dim=-1)
            entries = self.lookup(codes)
            # The straight-through estimator. In this order the value equals the codebook entry exactly.
            straight_through = (entries.detach() + (tokens - tokens.detach())).to(latents.dtype)
            output = QuantizerOutput(latents=straight_through, codes=codes)
            if return_loss:
                output.commitment_loss = self.commitment_weight * F.mse_loss(tokens, entries.detach())
                output.codebook_loss = self.codebook_weight * F.mse_loss(entries, tokens.detach())
                output.loss = output.commitment_loss + output.codebook_loss
        return output

    def normalize(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of any shape (..., dim), divided by their norm if `l2_norm` is set."""
        return F.normalize(vectors, dim=-1) if self.l2_norm else vectors

    def distances(self, tokens: torch.Tensor) -> torch.Tensor:
        """Squared distances, float32: (batch, tokens, codebook_dim) -> (batch, tokens, codebook_size)."""
        entries = self.entries(tokens.device)
        squared_norms = tokens.square().sum(-1, keepdim=True) + entries.square().sum(-1)
        return squared_norms - 2 * tokens @ entries.T

    def entries(self, device: torch.device) -> torch.Tensor:
        """All entries, normalised if `l2_norm` is set, float32, shape (codebook_size, codebook_dim)."""
        # Through the codebook's forward, not `codebook.weight`: only then offloaded or sharded weights are loaded.
        return self.lookup(torch.arange(self.codebook.num_embeddings, device=device))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codebook entries in float32, shape (..., codebook_dim), of int64 `codes` of any shape (...)."""
        return self.normalize(self.codebook(codes).float())


class TiTokVectorQuantizer(VectorQuantizer):
    """The codebook of a TiTok model (paper eq. 2)."""

    def __init__(self, config: QuantizerConfig):
        super().__init__(
            config.codebook_size,
            config.codebook_dim,
            config.codebook_l2_norm,
            commitment_weight=config.commitment_cost,
        )


class TiTokGaussianQuantizer(Quantizer):
    """The bottleneck of KL models: each token is a sample of a diagonal Gaussian (arXiv 2501.07730), in float32."""

    has_codes = False

    def __init__(self, config: QuantizerConfig):
        super().__init__()

    @staticmethod
    def encoder_channels(config: QuantizerConfig) -> int:
        """A mean and a log variance for each channel of a token."""
        return 2 * config.codebook_dim

    def forward(
        self,
        latents: torch.Tensor,
        return_loss: bool = False,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> QuantizerOutput:
        """
        Args:
            latents: means and log variances side by side, shape (batch, num_latent_tokens, 2 * codebook_dim).
            return_loss: whether to compute the KL divergence.
            sample_posterior: whether the tokens are a sample, as in training and in the published evaluation, or
                the mean.
            generator: source of the noise, which is drawn on the generator's device for one image after the other. A
                list has one generator for each image.
        Returns:
            `latents`, `posterior_mean`, `posterior_logvar` and, on request, `loss` and `kl_loss`.
        Raises:
            ValueError: `generator` is something else, or has another length than the batch.
        """
        mean, logvar = latents.float().chunk(2, dim=-1)  # no operation below is one that autocast would change
        logvar = logvar.clamp(-30, 20)
        tokens = mean
        if sample_posterior:
            tokens = mean + (0.5 * logvar).exp() * noise_like(mean, generator)
        output = QuantizerOutput(latents=tokens.to(latents.dtype), posterior_mean=mean, posterior_logvar=logvar)
        if return_loss:
            output.kl_loss = self.kl_divergence(mean, logvar).sum() / mean.shape[0]
            output.loss = output.kl_loss
        return output

    def keep_first(self, output: QuantizerOutput, num_tokens: int) -> QuantizerOutput:
        """
        As in the base class, but the KL divergence too is that of the kept tokens: tokens that nothing is decoded from
        carry no information, and a penalty on them would push late tokens, which are kept less often, to the prior.
        """
        output = super().keep_first(output, num_tokens)
        if output.kl_loss is not None:
            mean, logvar = output.posterior_mean, output.posterior_logvar
            output.loss = output.kl_loss = self.kl_divergence(mean, logvar).sum() / mean.shape[0]
        return output

    @staticmethod
    def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Divergence of each token from the unit Gaussian in nats, shape (batch, num_latent_tokens)."""
        return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=-1)


def noise_like(mean: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None) -> torch.Tensor:
    """Numbers of the unit Gaussian, shape and device of `mean`, drawn for one image after the other."""
    if generator is None and is_traced(mean):
        return torch.randn_like(mean)  # a graph for any batch size
    generators = list(generator) if isinstance(generator, (list, tuple)) else [generator] * len(mean)
    for source in generators:
        check_generator(source)
    if len(generators) != len(mean):
        raise ValueError(
            f"There are {len(generators)} generators for {len(mean)} images. Give one, or one for each image."
        )
    draws = [
        torch.randn(mean.shape[1:], generator=source, device=mean.device if source is None else source.device)
        for source in generators
    ]
    return torch.stack(draws).to(mean.device, non_blocking=True) if draws else torch.empty_like(mean)


QUANTIZERS: dict[str, type[Quantizer]] = {"vq": TiTokVectorQuantizer, "kl": TiTokGaussianQuantizer}
"""The quantisers of TiTok, by the names that `TiTokConfig.quantizer` takes. Each is called with the configuration."""
