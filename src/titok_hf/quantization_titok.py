"""The two bottlenecks of TiTok: a codebook (arXiv 2406.07550) and a diagonal Gaussian (arXiv 2501.07730)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import maybe_autocast

from .accepted_values import check_generator, is_traced
from .configuration_titok import TiTokConfig


@dataclass
class TiTokEncoderOutput(ModelOutput):
    """
    What [`TiTokModel.encode`] makes of a batch of images.

    Args:
        latents (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_dim)`): the tokens. For VQ models
            the chosen codebook entries, with the straight-through estimator carrying gradients to the encoder; for KL
            models the sample of the posterior, or its mean.
        codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`, *optional*): index of each token in the
            codebook, in `[0, codebook_size)`. None for KL models, which have no codebook.
        posterior_mean, posterior_logvar (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_dim)`,
            *optional*): the diagonal Gaussian of KL models, log variance in [-30, 20].
        loss (`torch.FloatTensor`, scalar, *optional*): the quantiser loss: `commitment_loss + codebook_loss`, or
            `kl_loss`.
        commitment_loss, codebook_loss (`torch.FloatTensor`, scalars, *optional*): the two terms of VQ models, the
            first with `commitment_cost` already applied.
        kl_loss (`torch.FloatTensor`, scalar, *optional*): KL divergence from the unit Gaussian in nats, summed over an
            image's tokens, averaged over images.
        hidden_states, attentions (tuples of `torch.FloatTensor`, *optional*): the encoder's, on request.
    """

    latents: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    posterior_mean: torch.FloatTensor | None = None
    posterior_logvar: torch.FloatTensor | None = None
    loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    codebook_loss: torch.FloatTensor | None = None
    kl_loss: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class TiTokVectorQuantizer(nn.Module):
    """
    Replaces each token by its nearest codebook entry (paper eq. 2), in float32 whatever the model's precision.

    With `codebook_l2_norm` both sides are compared on the unit sphere. The stored codebook is not normalised.
    """

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.l2_norm = config.codebook_l2_norm
        self.commitment_cost = config.commitment_cost
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def forward(self, latents: torch.Tensor, return_loss: bool = False) -> TiTokEncoderOutput:
        """
        Args:
            latents: tokens from the encoder, shape (batch, num_latent_tokens, codebook_dim).
            return_loss: whether to compute the three losses.
        Returns:
            `latents`, `codes` and, on request, `loss`, `commitment_loss` and `codebook_loss`.
        """
        with maybe_autocast(latents.device.type, enabled=False):
            tokens = self.normalize(latents.float())
            codes = self.distances(tokens).argmin(dim=-1)
            quantized = self.lookup(codes)
            # The straight-through estimator, written so that the value is the codebook entry to the last bit.
            straight_through = (quantized.detach() + (tokens - tokens.detach())).to(latents.dtype)
            output = TiTokEncoderOutput(latents=straight_through, codes=codes)
            if return_loss:
                output.commitment_loss = self.commitment_cost * F.mse_loss(tokens, quantized.detach())
                output.codebook_loss = F.mse_loss(quantized, tokens.detach())
                output.loss = output.commitment_loss + output.codebook_loss
        return output

    def normalize(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors on the unit sphere where the model compares them there, else as they are; any shape (..., dim)."""
        return F.normalize(vectors, dim=-1) if self.l2_norm else vectors

    def distances(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        Squared distance of every token to every entry.

        Args:
            tokens: float32, shape (batch, num_latent_tokens, codebook_dim), normalised where the model asks for it.
        Returns:
            float32, shape (batch, num_latent_tokens, codebook_size).
        """
        # Through the codebook's own forward, never `codebook.weight`: weights that are offloaded or sharded are there
        # during the forward of their module alone.
        entries = self.lookup(torch.arange(self.codebook.num_embeddings, device=tokens.device))  # (C, D)
        squared_norms = tokens.square().sum(-1, keepdim=True) + entries.square().sum(-1)
        return squared_norms - 2 * tokens @ entries.T

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codebook entries in float32, shape (..., codebook_dim), of int64 `codes` of any shape (...)."""
        return self.normalize(self.codebook(codes).float())


class TiTokGaussianQuantizer(nn.Module):
    """The bottleneck of KL models: each token is a sample of a diagonal Gaussian (arXiv 2501.07730), in float32."""

    def forward(
        self,
        latents: torch.Tensor,
        return_loss: bool = False,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> TiTokEncoderOutput:
        """
        Args:
            latents: means and log variances side by side, shape (batch, num_latent_tokens, 2 * codebook_dim).
            return_loss: whether to compute the KL divergence.
            sample_posterior: whether the tokens are a sample, as in training and in the published evaluation, or
                the mean.
            generator: source of the sample's noise, drawn on the generator's device, one image after the other: so a
                batch has the noise of its images one by one. Or one generator for each image, whose noise does not
                depend on its place either.
        Returns:
            `latents`, `posterior_mean`, `posterior_logvar` and, on request, `loss` and `kl_loss`.
        Raises:
            ValueError: a `generator` that is none, or not one for each image.
        """
        mean, logvar = latents.float().chunk(2, dim=-1)  # nothing below is a product that autocast would lower
        logvar = logvar.clamp(-30, 20)
        tokens = mean
        if sample_posterior:
            tokens = mean + (0.5 * logvar).exp() * _noise_like(mean, generator)
        output = TiTokEncoderOutput(latents=tokens.to(latents.dtype), posterior_mean=mean, posterior_logvar=logvar)
        if return_loss:
            output.kl_loss = self.kl_divergence(mean, logvar).sum() / mean.shape[0]
            output.loss = output.kl_loss
        return output

    @staticmethod
    def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Divergence of each token from the unit Gaussian in nats, shape (batch, num_latent_tokens)."""
        return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=-1)


def _noise_like(mean: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None) -> torch.Tensor:
    """Numbers of the unit Gaussian, shape and device of `mean`, drawn for each image by itself."""
    if generator is None and is_traced(mean):
        return torch.randn_like(mean)  # a trace holds for every size of batch
    generators = list(generator) if isinstance(generator, (list, tuple)) else [generator] * len(mean)
    for source in generators:
        check_generator(source)
    if len(generators) != len(mean):
        raise ValueError(f"There are {len(generators)} generators for {len(mean)} images. Give one, or one an image.")
    draws = [
        torch.randn(mean.shape[1:], generator=source, device=mean.device if source is None else source.device)
        for source in generators
    ]
    return torch.stack(draws).to(mean.device) if draws else torch.empty_like(mean)


__all__ = ["TiTokEncoderOutput", "TiTokGaussianQuantizer", "TiTokVectorQuantizer"]
