# Copyright 2026 The titok-hf authors.
# Licensed under the Apache License, Version 2.0: see the file LICENSE.
"""Configuration of the MaskGIT-VQGAN, the teacher of the two-stage TiTok models: sizes, and checks of its input."""

import math

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .accepted_values import (
    LARGEST_DEPTH,
    LARGEST_SIZE,
    check_code_range,
    check_pixel_dtype,
    integer_codes,
    real_number,
    whole_number,
)
from .checkpoints.remote_code import LoadedByAutoClasses


@strict
class MaskGitVQGANConfig(LoadedByAutoClasses, PreTrainedConfig):
    """
    Architecture of a [`MaskGitVQGANModel`]. The defaults are those of the published ImageNet tokenizer of MaskGIT
    (arXiv 2202.04200): 16 x 16 pixels a code, 1024 codes of 256 numbers, 54.5M parameters.

    The network is convolutional: it takes images of any size whose sides are divisible by `downsample_factor`.

    Args:
        num_channels (`int`, defaults to 3): colour channels of the images.
        base_channels (`int`, defaults to 128): feature channels at full resolution.
        channel_multipliers (`list[int]`, defaults to `(1, 1, 2, 2, 4)`): feature channels of each resolution level,
            finest first, as multiples of `base_channels`. Between two levels the resolution halves.
        num_resnet_blocks (`int`, defaults to 2): residual blocks of each level, and in the middle.
        num_groups (`int`, defaults to 32): groups of every group normalisation; must divide every level's channels.
        group_norm_eps (`float`, defaults to 1e-6): epsilon of every group normalisation.
        codebook_size (`int`, defaults to 1024): number of codes.
        codebook_dim (`int`, defaults to 256): size of a code, and channels of the latent map.
        codebook_loss_weight (`float`, defaults to 0.25): weight of the loss term that pulls codes towards the
            encoder's output. The commitment term has weight 1. (Most VQ models have it the other way round.)

    Raises:
        StrictDataclassError: a field has another type, a size is impossible, or `num_groups` does not divide the
            channels of some level.
    """

    model_type = "maskgit_vqgan"
    auto_classes = {"AutoConfig": "titok.MaskGitVQGANConfig", "AutoModel": "titok.MaskGitVQGANModel"}
    base_config_key = "pixel_decoder"

    num_channels: int = 3
    base_channels: int = 128
    channel_multipliers: list[int] | tuple[int, ...] = (1, 1, 2, 2, 4)
    num_resnet_blocks: int = 2
    num_groups: int = 32
    group_norm_eps: float = 1e-6
    codebook_size: int = 1024
    codebook_dim: int = 256
    codebook_loss_weight: float | int = 0.25

    @property
    def level_channels(self) -> list[int]:
        """Feature channels of each resolution level, finest first."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def downsample_factor(self) -> int:
        """Pixels a code along each side of the image."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def has_codebook(self) -> bool:
        """As of [`TiTokConfig`]: tokens are codes."""
        return True

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """ValueError for another shape than (batch, num_channels, height, width), wrong sides, or not floats."""
        shape, factor = tuple(pixel_values.shape), self.downsample_factor
        if len(shape) != 4 or shape[1] != self.num_channels:
            raise ValueError(f"pixel_values has shape {shape}; expected (batch, {self.num_channels}, height, width).")
        if shape[2] % factor or shape[3] % factor or not shape[2] or not shape[3]:
            raise ValueError(
                f"pixel_values is {shape[2]} x {shape[3]} pixels; both sides must be multiples of {factor}. "
                "Resize or crop the images first."
            )
        check_pixel_dtype(pixel_values)

    def checked_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """
        Codes of any integer dtype as int64, shape (batch, height, width). Checks the range, which waits for the
        device, unless the model is compiled or exported.

        Args:
            codes: shape (batch, height, width), or (batch, n) for a square map with height * height = n.

        Raises:
            ValueError: no integers, another shape, or values outside of [0, codebook_size).
        """
        codes = integer_codes(codes)
        if codes.ndim == 2:
            side = math.isqrt(codes.shape[1])
            if side * side != codes.shape[1]:
                raise ValueError(
                    f"codes has {codes.shape[1]} positions for each image, which is no square. "
                    "Give codes of other maps the shape (batch, height, width)."
                )
            codes = codes.unflatten(1, (side, side))
        if codes.ndim != 3:
            raise ValueError(
                f"codes has shape {tuple(codes.shape)}; expected (batch, height, width) or (batch, height * width)."
            )
        check_code_range(codes, self.codebook_size)
        return codes

    def check_latents(self, latents: torch.Tensor) -> None:
        """ValueError for latents of another shape than (batch, codebook_dim, height, width), or not floats."""
        if latents.ndim != 4 or latents.shape[1] != self.codebook_dim:
            raise ValueError(
                f"latents has shape {tuple(latents.shape)}; expected (batch, {self.codebook_dim}, height, width)."
            )
        if not latents.is_floating_point():
            raise ValueError(f"latents has dtype {latents.dtype}; expected floats. Integers go to the argument codes.")

    def validate_architecture(self) -> None:
        """Part of `@strict` validation: refuses sizes of which no network can be built."""
        for name in ("num_channels", "base_channels", "num_groups", "codebook_size", "codebook_dim"):
            whole_number(name, getattr(self, name), highest=LARGEST_SIZE)
        whole_number("num_resnet_blocks", self.num_resnet_blocks, highest=LARGEST_DEPTH)
        for name in ("group_norm_eps", "codebook_loss_weight"):
            real_number(name, getattr(self, name), lowest=0)
        multipliers = self.channel_multipliers
        if not 1 <= len(multipliers) <= 20 or min(multipliers) < 1 or max(multipliers) > 2**10:
            raise ValueError(
                f"channel_multipliers is {multipliers}; give one integer from 1 to {2**10} for each resolution level, "
                "and at most 20 levels."
            )
        whole_number("the number of channels of the widest level", max(self.level_channels), highest=LARGEST_SIZE)
        misfits = [channels for channels in self.level_channels if channels % self.num_groups]
        if misfits:
            raise ValueError(
                f"num_groups is {self.num_groups}, which does not divide the {misfits[0]} channels of a level. "
                "Choose base_channels as a multiple of num_groups."
            )


__all__ = ["MaskGitVQGANConfig"]
