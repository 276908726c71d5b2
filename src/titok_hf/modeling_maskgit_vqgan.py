# Copyright 2026 The titok-hf authors.
# Licensed under the Apache License, Version 2.0: see the file LICENSE.
"""The MaskGIT-VQGAN: image to a map of codes and back, all convolutions.

In stage 1 of their training, two-stage TiTok models learn to predict its codes ("proxy codes"). From stage 2 on, its
decoder is their pixel decoder.

Sources: MaskGIT (arXiv 2202.04200), section 3 and its published tokenizer; VQGAN (arXiv 2012.09841).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .checkpoints.mixin import CheckpointMixin
from .configuration_maskgit_vqgan import MaskGitVQGANConfig
from .quantization_titok import VectorQuantizer


@dataclass
class MaskGitVQGANEncoderOutput(ModelOutput):
    """
    Args:
        latents (`torch.FloatTensor` of shape `(batch, codebook_dim, height, width)`): quantised latent map, rows of
            the codebook; the straight-through estimator carries gradients to the encoder.
        codes (`torch.LongTensor` of shape `(batch, height * width)`): index of each position in the codebook, row by
            row, in `[0, codebook_size)`.
        loss (`torch.FloatTensor` of shape `()`, *optional*): quantiser loss, with `return_loss=True`.
    """

    latents: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    loss: torch.FloatTensor | None = None


@dataclass
class MaskGitVQGANDecoderOutput(ModelOutput):
    """
    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image height, image width)`): images,
            nominally in [0, 1], not clamped.
    """

    pixel_values: torch.FloatTensor | None = None


@dataclass
class MaskGitVQGANOutput(MaskGitVQGANEncoderOutput, MaskGitVQGANDecoderOutput):
    """The fields of [`MaskGitVQGANDecoderOutput`], then those of [`MaskGitVQGANEncoderOutput`]."""


class MaskGitVQGANResnetBlock(GradientCheckpointingLayer):
    """Two times group normalisation, SiLU and a 3 x 3 convolution, plus a residual."""

    def __init__(self, config: MaskGitVQGANConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.num_groups, in_channels, eps=config.group_norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(config.num_groups, out_channels, eps=config.group_norm_eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(out_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height, width)."""
        residual = hidden_states
        hidden_states = self.conv1(F.silu(self.norm1(hidden_states)))
        hidden_states = self.conv2(F.silu(self.norm2(hidden_states)))
        # The shortcut is applied to the output of the convolutions, not to the input: so the original was trained.
        if self.shortcut is not None:
            residual = self.shortcut(hidden_states)
        return hidden_states + residual


def resnet_blocks(config: MaskGitVQGANConfig, in_channels: int, out_channels: int) -> nn.ModuleList:
    """`num_resnet_blocks` residual blocks, of which the first changes the width."""
    widths = [in_channels] + [out_channels] * config.num_resnet_blocks
    return nn.ModuleList(MaskGitVQGANResnetBlock(config, *pair) for pair in zip(widths[:-1], widths[1:], strict=True))


class MaskGitVQGANDownBlock(nn.Module):
    """One resolution level of the encoder: residual blocks, then 2 x 2 average pooling unless it is the last level."""

    def __init__(self, config: MaskGitVQGANConfig, in_channels: int, out_channels: int, downsample: bool) -> None:
        super().__init__()
        self.resnets = resnet_blocks(config, in_channels, out_channels)
        self.downsample = nn.AvgPool2d(kernel_size=2) if downsample else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / 2, width / 2)."""
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
        return self.downsample(hidden_states)


class MaskGitVQGANUpsample(nn.Module):
    """Nearest-neighbour enlargement by two, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, channels, 2 * height, 2 * width)."""
        return self.conv(F.interpolate(hidden_states, scale_factor=2.0, mode="nearest"))


class MaskGitVQGANUpBlock(nn.Module):
    """One resolution level of the decoder: residual blocks, then enlargement by two unless it is the last level."""

    def __init__(self, config: MaskGitVQGANConfig, in_channels: int, out_channels: int, upsample: bool) -> None:
        super().__init__()
        self.resnets = resnet_blocks(config, in_channels, out_channels)
        self.upsample = MaskGitVQGANUpsample(out_channels) if upsample else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, 2 * height, 2 * width)."""
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
        return self.upsample(hidden_states)


class MaskGitVQGANVectorQuantizer(VectorQuantizer):
    """The codebook of a MaskGIT-VQGAN. The weight is on the codebook's loss term, not on the commitment term."""

    def __init__(self, config: MaskGitVQGANConfig) -> None:
        super().__init__(config.codebook_size, config.codebook_dim, codebook_weight=config.codebook_loss_weight)

    def distances(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, codebook_dim) -> (batch, tokens, codebook_size): without |z|^2, the same for all codes."""
        entries = self.entries(tokens.device)
        distances = torch.addmm(entries.square().sum(dim=1), tokens.flatten(0, 1), entries.T, alpha=-2)
        return distances.unflatten(0, tokens.shape[:2])


class MaskGitVQGANPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the attributes that `PreTrainedModel` reads."""

    config: MaskGitVQGANConfig
    base_model_prefix = "maskgit_vqgan"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["MaskGitVQGANResnetBlock"]
    # There is no attention here: these let a TiTok model with this decoder choose any implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _input_embed_layer = "conv_in"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the original: PyTorch's initialisation of convolutions; codebooks uniform in +-1 / codebook_size."""
        if isinstance(module, nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            bound = 1 / module.num_embeddings
            init.uniform_(module.weight, -bound, bound)
        else:
            super()._init_weights(module)


class MaskGitVQGANEncoder(MaskGitVQGANPreTrainedModel):
    """Images to the latent map before quantisation."""

    def __init__(self, config: MaskGitVQGANConfig) -> None:
        super().__init__(config)
        levels = config.level_channels
        widths = [config.base_channels, *levels]
        self.conv_in = nn.Conv2d(config.num_channels, widths[0], kernel_size=3, padding=1, bias=False)
        self.down_blocks = nn.ModuleList(
            MaskGitVQGANDownBlock(config, widths[i], widths[i + 1], downsample=i < len(levels) - 1)
            for i in range(len(levels))
        )
        self.mid_blocks = resnet_blocks(config, widths[-1], widths[-1])
        self.norm_out = nn.GroupNorm(config.num_groups, widths[-1], eps=config.group_norm_eps)
        self.conv_out = nn.Conv2d(widths[-1], config.codebook_dim, kernel_size=1)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pixel_values: images, float, shape (batch, num_channels, H, W), values in [0, 1].
        Returns:
            latent map, shape (batch, codebook_dim, H / downsample_factor, W / downsample_factor).
        """
        hidden_states = self.conv_in(convolution_input(pixel_values, self.norm_out.weight.dtype))
        for block in (*self.down_blocks, *self.mid_blocks):
            hidden_states = block(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states)))


class MaskGitVQGANDecoder(MaskGitVQGANPreTrainedModel):
    """Latent map to images; also the pixel decoder of the two-stage TiTok models."""

    main_input_name = "latents"

    def __init__(self, config: MaskGitVQGANConfig) -> None:
        super().__init__(config)
        levels = config.level_channels[::-1]  # coarsest first, in the order in which they run
        widths = [levels[0], *levels]
        self.conv_in = nn.Conv2d(config.codebook_dim, widths[0], kernel_size=3, padding=1)
        self.mid_blocks = resnet_blocks(config, widths[0], widths[0])
        self.up_blocks = nn.ModuleList(
            MaskGitVQGANUpBlock(config, widths[i], widths[i + 1], upsample=i < len(levels) - 1)
            for i in range(len(levels))
        )
        self.norm_out = nn.GroupNorm(config.num_groups, widths[-1], eps=config.group_norm_eps)
        self.conv_out = nn.Conv2d(widths[-1], config.num_channels, kernel_size=3, padding=1)
        self.post_init()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """
        Args:
            latents: code vectors, or weighted means of them, float, shape (batch, codebook_dim, h, w).
        Returns:
            images, shape (batch, num_channels, h * downsample_factor, w * downsample_factor), nominally in [0, 1],
            not clamped.
        """
        hidden_states = self.conv_in(convolution_input(latents, self.norm_out.weight.dtype))
        for block in (*self.mid_blocks, *self.up_blocks):
            hidden_states = block(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states))).contiguous()


def convolution_input(features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`features` (batch, channels, height, width) in the fastest memory layout and in `dtype`."""
    # `dtype` is a normalisation's, because convolutions may be stored in 8 bits.
    # On a CPU, channels last is 1.2 times faster; CUDA's group normalisation would copy to and from it.
    layout = torch.channels_last if features.device.type == "cpu" else torch.preserve_format
    return features.to(dtype=dtype, memory_format=layout)


class MaskGitVQGANModel(CheckpointMixin, MaskGitVQGANPreTrainedModel):
    """
    The MaskGIT-VQGAN: encoder, vector quantiser, decoder. Input images are floats in [0, 1]. Output images are floats,
    nominally in [0, 1], and not clamped; `TiTokImageProcessor.post_process` clamps them.

    ```python
    codes = model.encode(pixel_values).codes             # (batch, height * width)
    pixels = model.decode(codes=codes).pixel_values      # (batch, num_channels, image height, image width)
    ```
    """

    def __init__(self, config: MaskGitVQGANConfig) -> None:
        super().__init__(config)
        self.encoder = MaskGitVQGANEncoder(config)
        self.quantizer = MaskGitVQGANVectorQuantizer(config)
        self.decoder = MaskGitVQGANDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution; adapters on a frozen model need gradients of its output."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the first convolution."""
        self.encoder.set_input_embeddings(value)

    @can_return_tuple
    def encode(self, pixel_values: torch.Tensor, return_loss: bool = False) -> MaskGitVQGANEncoderOutput:
        """
        Args:
            pixel_values: images, float, shape (batch, num_channels, H, W), values in [0, 1]; H and W divisible by
                `config.downsample_factor`.
            return_loss: also compute the quantiser loss.
        Returns:
            quantised latents (batch, codebook_dim, h, w) and codes (batch, h * w).
        Raises:
            ValueError: `pixel_values` has another shape, or is not float.
        """
        self.config.check_pixel_values(pixel_values)
        latents = self.encoder(pixel_values)  # (B, D, h, w)
        tokens = self.quantizer(latents.flatten(2).transpose(1, 2), return_loss)
        self.quantizer.check_finite(tokens.latents)
        latent_map = tokens.latents.transpose(1, 2).unflatten(2, latents.shape[2:])
        return MaskGitVQGANEncoderOutput(latents=latent_map, codes=tokens.codes, loss=tokens.loss)

    @can_return_tuple
    def decode(
        self, codes: torch.Tensor | None = None, latents: torch.Tensor | None = None
    ) -> MaskGitVQGANDecoderOutput:
        """
        Give either `codes` or `latents`.

        Args:
            codes: integers in [0, codebook_size), shape (batch, h, w), or (batch, n) for a square map with h * h = n.
                The range is checked, which waits for the device, unless the model is compiled or exported.
            latents: code vectors, float, shape (batch, codebook_dim, h, w).
        Returns:
            images (batch, num_channels, h * downsample_factor, w * downsample_factor).
        Raises:
            ValueError: none or both of the two, another shape or dtype, or codes out of range.
        """
        if (codes is None) == (latents is None):
            given = "neither" if codes is None else "both"
            raise ValueError(f"decode takes either codes or latents; got {given}.")
        if codes is not None:
            latents = self.quantizer.lookup(self.config.checked_codes(codes)).permute(0, 3, 1, 2)
        self.config.check_latents(latents)
        return MaskGitVQGANDecoderOutput(pixel_values=self.decoder(latents))

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, return_loss: bool = False) -> MaskGitVQGANOutput:
        """Encode and decode. Arguments and errors are those of `encode`."""
        encoded = self.encode(pixel_values, return_loss=return_loss, return_dict=True)
        return MaskGitVQGANOutput(pixel_values=self.decoder(encoded.latents), **encoded)


__all__ = [
    "MaskGitVQGANDecoder",
    "MaskGitVQGANDecoderOutput",
    "MaskGitVQGANEncoderOutput",
    "MaskGitVQGANModel",
    "MaskGitVQGANOutput",
    "MaskGitVQGANPreTrainedModel",
]
