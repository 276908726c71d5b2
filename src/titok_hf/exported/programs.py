"""What is exported of a pipeline: encoder, decoder and generator step, modules whose inputs and outputs are tensors,
float32 or int64."""

from __future__ import annotations

import torch
from torch import nn

from ..configuration_titok import TiTokConfig
from ..modeling_maskgit import MaskGitTransformer1DModel
from ..modeling_titok import TiTokModel

ENCODER, DECODER, GENERATOR = "encoder_model", "decoder_model", "generator_model"
"""Names of the programs and of their files; transformers.js expects the first two."""

# torch.export takes sizes of 0 and 1 for constants, so that the batch of the example must be larger.
_EXAMPLE_BATCH = 2


class Program(nn.Module):
    """
    Base class. A subclass defines `forward`, which takes and returns tensors by name, and `example`.

    Args:
        float_inputs: whether inputs stay float32 where the weights are in 16 bits. transformers converts the example
            to the dtype of a program's first parameter, and the inputs of the graph have the dtype of the example.
    """

    def __init__(self, float_inputs: bool = False) -> None:
        super().__init__()
        if float_inputs:
            self.input_dtype = nn.Parameter(torch.zeros(()), requires_grad=False)

    def example(self) -> dict[str, torch.Tensor]:
        """Inputs of the right shape and dtype, from which the graph is traced."""
        raise NotImplementedError


class EncoderProgram(Program):
    """
    pixel_values, float32 (batch, channels, height, width) in [0, 1] -> `codes`, int64 (batch, num_latent_tokens), and
    `latents`, their codebook entries. KL tokenizers have no codes: `posterior_mean` and `posterior_logvar`, float32
    (batch, num_latent_tokens, codebook_dim).
    """

    def __init__(self, tokenizer: TiTokModel, float_inputs: bool = False) -> None:
        super().__init__(float_inputs)
        self.tokenizer = tokenizer

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        pixel_values = pixel_values.to(self.tokenizer.dtype)
        encoded = self.tokenizer.encode(pixel_values, return_dict=True, sample_posterior=False)
        if encoded.codes is not None:
            return {"codes": encoded.codes, "latents": encoded.latents.float()}
        return {"posterior_mean": encoded.posterior_mean, "posterior_logvar": encoded.posterior_logvar}

    def example(self) -> dict[str, torch.Tensor]:
        config = self.tokenizer.config
        return {"pixel_values": torch.rand(_EXAMPLE_BATCH, config.num_channels, config.image_size, config.image_size)}


class DecoderProgram(Program):
    """
    codes, int64 (batch, num_latent_tokens), or of KL tokenizers latents, float32 (batch, num_latent_tokens,
    codebook_dim) -> `pixel_values`, float32, not clamped; of stage-1 tokenizers `logits` of the proxy codes.
    """

    def __init__(self, tokenizer: TiTokModel, float_inputs: bool = False) -> None:
        super().__init__(float_inputs)
        self.tokenizer = tokenizer

    def forward(
        self, codes: torch.Tensor | None = None, latents: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        if latents is not None:
            latents = latents.to(self.tokenizer.dtype)
        decoded = self.tokenizer.decode(codes=codes, latents=latents, return_dict=True)
        name = "logits" if decoded.pixel_values is None else "pixel_values"
        return {name: decoded[name].float()}

    def example(self) -> dict[str, torch.Tensor]:
        return {token_input(self.tokenizer.config): example_tokens(self.tokenizer.config)}


class GeneratorProgram(Program):
    """
    One step of sampling, without guidance: input_ids, int64 (batch, num_latent_tokens), and class_labels, int64
    (batch,) -> `logits`, float32 (batch, num_latent_tokens, codebook_size). Guidance passes the labels and the label
    for no class in one batch.
    """

    def __init__(self, transformer: MaskGitTransformer1DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: torch.Tensor, class_labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.transformer(input_ids, class_labels).logits.float()}

    def example(self) -> dict[str, torch.Tensor]:
        shape = (_EXAMPLE_BATCH, self.transformer.config.num_latent_tokens)
        mask = torch.full(shape, self.transformer.mask_token_id)
        return {"input_ids": mask, "class_labels": torch.zeros(_EXAMPLE_BATCH, dtype=torch.long)}


def token_input(config: TiTokConfig) -> str:
    """The name of the decoder's input."""
    return "codes" if config.has_codebook else "latents"


def example_tokens(config: TiTokConfig) -> torch.Tensor:
    """Tokens of the example batch, of the shape and dtype of the decoder's input."""
    return torch.zeros(_EXAMPLE_BATCH, *config.token_shape, dtype=torch.long if config.has_codebook else torch.float32)
