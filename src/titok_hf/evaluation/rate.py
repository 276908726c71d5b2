"""
Size against quality: a tokenizer's codes beside JPEG and WebP files of the same images (as in arXiv 2501.10064), and
which part of an image each token draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from titok_hf.configuration_titok import TiTokConfig
from titok_hf.modeling_titok import TiTokModel
from titok_hf.pipeline_titok import TiTokPipeline

from .frechet import FrechetDistance, round_to_bytes
from .reconstruction import ReconstructionMeter

QUALITIES = (1, 5, 10, 20, 40, 60, 80, 95)
"""Of JPEG and WebP, as Pillow counts it."""

Codec = Callable[[torch.Tensor], tuple[torch.Tensor, float]]
"""Gives the decoded images and the bits of all of them together, for uint8 images of shape (batch, 3, H, W)."""


@dataclass(frozen=True)
class RatePoint:
    """
    Args:
        codec: its name.
        bits_per_image: mean size of an image.
        psnr: mean over images, in decibel; infinite if an image comes back unchanged.
        ssim: mean over images.
        frechet_distance: of all decoded images from the originals; None if no network was given.
    """

    codec: str
    bits_per_image: float
    psnr: float
    ssim: float
    frechet_distance: float | None


def bits_of_codes(config: TiTokConfig, num_tokens: int | None = None) -> float:
    """
    Bits of an image's codes, all codes being of one length: num_tokens * log2(codebook_size). By default the number of
    all tokens.

    Raises:
        ValueError: a KL model, whose tokens are vectors of real numbers; or a `num_tokens` that cannot be decoded.
    """
    if not config.has_codebook:
        raise ValueError("A KL tokenizer has no codes, so its images have no size in bits. Use a VQ tokenizer.")
    return config.checked_num_tokens(num_tokens) * math.log2(config.codebook_size)


def lengths_of(config: TiTokConfig) -> list[int]:
    """Numbers of tokens to compare: powers of two up to all tokens with tail drop, else all tokens alone."""
    most = config.num_latent_tokens
    return [*(2**power for power in range((most - 1).bit_length()) if config.tail_drop), most]


def tokenizer_codec(pipeline: TiTokPipeline, num_tokens: int | None = None) -> Codec:
    """A tokenizer, or its first `num_tokens` tokens, as a codec, see `bits_of_codes`."""
    bits = bits_of_codes(pipeline.tokenizer.config, num_tokens)

    def codec(images: torch.Tensor) -> tuple[torch.Tensor, float]:
        decoded = pipeline.reconstruct(images.float() / 255, "pt", batch_size=len(images), num_tokens=num_tokens)
        return round_to_bytes(decoded).cpu(), bits * len(images)

    return codec


def pillow_codec(image_format: str, quality: int) -> Codec:
    """A format of Pillow, `"JPEG"` or `"WebP"`, as a codec. The size is that of whole files, headers included."""

    def codec(images: torch.Tensor) -> tuple[torch.Tensor, float]:
        decoded, num_bytes = [], 0
        for image in images:
            stream = BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, image_format, quality=quality)
            num_bytes += len(stream.getvalue())
            with Image.open(stream) as opened:
                decoded.append(torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1))
        return torch.stack(decoded), 8.0 * num_bytes

    return codec


def measure_rates(
    images: torch.Tensor,
    codecs: Mapping[str, Codec],
    distance: FrechetDistance | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda num_images: None,
) -> list[RatePoint]:
    """
    Size and quality of each codec on the same images.

    Args:
        images: uint8, shape (num_images, 3, height, width).
        codecs: by name.
        distance: its real images become these; at least two images then.
        batch_size: images coded at once.
        progress: called with the number of images that a codec has coded since the last call.
    Raises:
        ValueError: no images, or a tokenizer that gives values that are not finite.
    """
    if not len(images):
        raise ValueError("There are no images. Name a split that has some.")
    if distance is not None:
        distance.reset()
        for batch in images.split(batch_size):
            distance.update(batch.float() / 255, real=True)
    points = []
    for name, codec in codecs.items():
        meter, bits = ReconstructionMeter(), 0.0
        if distance is not None:
            distance.reset(real=False)
        for batch in images.split(batch_size):
            decoded, batch_bits = codec(batch)
            bits += batch_bits
            meter.update(decoded.float() / 255, batch.float() / 255)
            if distance is not None:
                distance.update(decoded.float() / 255, real=False)
            progress(len(batch))
        measured = meter.compute()
        found = None if distance is None else distance.compute()
        points.append(RatePoint(name, bits / len(images), measured["psnr"], measured["ssim"], found))
    return points


@torch.no_grad()
def token_influence(
    model: TiTokModel,
    images: torch.Tensor,
    num_replacements: int = 4,
    progress: Callable[[int], object] = lambda num_tokens: None,
) -> torch.Tensor:
    """
    Where each token changes the image.

    A token is replaced by that of another image at the same position, and all other tokens stay; its influence on a
    pixel is the mean absolute change over channels, images and replacements. Image i takes the tokens of the images
    i + 1, ..., i + num_replacements, the first following the last.

    Args:
        model: in evaluation mode, ending in pixels.
        images: uint8, shape (num_images, 3, image_size, image_size), at least two.
        num_replacements: how many other images each token is taken from.
        progress: called with the number of tokens that are done since the last call.
    Returns:
        float32 on the CPU, shape (num_latent_tokens, image_size, image_size), values in [0, 1].
    Raises:
        ValueError: fewer than two images, no replacement, or a stage-1 model.
    """
    if len(images) < 2 or num_replacements < 1:
        raise ValueError(
            f"There are {len(images)} images and {num_replacements} replacements. A token is replaced by that of "
            "another image: give at least two images and one replacement."
        )
    if model.config.decoder_head != "pixels" and model.pixel_decoder is None:
        raise ValueError("This is a stage-1 tokenizer: it ends in proxy codes, not pixels. Use a stage-2 model.")
    pixel_values = (images.to(model.device).float() / 255).to(model.dtype)
    tokens = model.encode(pixel_values, sample_posterior=False, return_dict=True).latents
    original = _decoded(model, tokens)
    shifts = range(1, min(num_replacements, len(images) - 1) + 1)
    maps = []
    for position in range(tokens.shape[1]):
        influence = torch.zeros(original.shape[2:], device=original.device)
        for shift in shifts:
            replaced = tokens.clone()
            replaced[:, position] = tokens.roll(-shift, dims=0)[:, position]
            influence += (_decoded(model, replaced) - original).abs().mean(dim=(0, 1))
        maps.append((influence / len(shifts)).cpu())
        progress(1)
    return torch.stack(maps)


def covered_area(influence: torch.Tensor) -> torch.Tensor:
    """
    The share of the image that each token draws: exp of the entropy of its map over the number of pixels.

    Args:
        influence: shape (num_latent_tokens, height, width), at least 0.
    Returns:
        float, shape (num_latent_tokens,), 1 for a token that changes all pixels alike, 0 for one that changes none.
    """
    shares = influence.flatten(1).double()
    totals = shares.sum(dim=1, keepdim=True)
    shares = shares / totals.clamp(min=torch.finfo(torch.float64).tiny)
    area = (-torch.special.xlogy(shares, shares).sum(dim=1)).exp() / shares.shape[1]
    return torch.where(totals[:, 0] > 0, area, 0).float()


def _decoded(model: TiTokModel, tokens: torch.Tensor) -> torch.Tensor:
    return model.decode(latents=tokens, return_dict=True).pixel_values.float().clamp(0, 1)


__all__ = [
    "QUALITIES",
    "Codec",
    "RatePoint",
    "bits_of_codes",
    "covered_area",
    "lengths_of",
    "measure_rates",
    "pillow_codec",
    "token_influence",
    "tokenizer_codec",
]
