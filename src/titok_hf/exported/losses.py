"""What an export loses: an exported pipeline compared with the pipeline that it was exported from."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..bundled import example_images
from ..pipeline_titok import TiTokPipeline

# Float32 engines round otherwise than PyTorch, in the last digits only. Measured: 1e-6 to 1e-4 of the largest value.
_LARGEST_RELATIVE_DIFFERENCE = 1e-3
# A token at almost the same distance from two codebook entries may get either.
_LARGEST_SHARE_OF_CODES = 0.02
# Larger images take seconds each.
_MANY_IMAGES, _FEW_IMAGES, _SMALL_SIZE = 20, 4, 64


@torch.no_grad()
def measure_losses(pipe: TiTokPipeline, exported: TiTokPipeline) -> dict[str, Any]:
    """
    Both pipelines on real images, the test images of Fashion-MNIST that come with this package, in batches of two
    sizes.

    Returns:
        `images`, their number; for models with a codebook `codes_that_differ`, a share, otherwise `tokens_difference`;
        `pixels_difference` and `decoded_psnr` (dB) between the images that both decode from the tokens of the first;
        `psnr_of_pytorch` and `psnr`, of images that are encoded and decoded by each (dB); `logits_difference` of the
        generator, and `best_codes_that_differ`, the share of positions at which another code is the most likely one.
        Differences are the largest ones, relative to the largest value of PyTorch. A PSNR of equal images is null.

    Raises:
        ValueError: outputs that are not finite numbers.
    """
    images = _images(pipe)
    expected, tokens = pipe.encode(images), _in_two_batches(exported.encode, images)
    losses: dict[str, Any] = {"images": len(images)}
    if pipe.tokenizer.config.has_codebook:
        losses["codes_that_differ"] = _share(expected != tokens)
    else:
        losses["tokens_difference"] = _difference(expected, tokens)
    if pipe.tokenizer.config.decoder_head == "pixels" or pipe.tokenizer.pixel_decoder is not None:
        decoded, same_tokens = (_in_two_batches(_pixels(each), expected) for each in (pipe, exported))
        losses["pixels_difference"] = _difference(decoded, same_tokens)
        losses["decoded_psnr"] = _psnr(decoded, same_tokens)
        losses["psnr_of_pytorch"] = _psnr(images, decoded)
        losses["psnr"] = _psnr(images, _pixels(exported)(tokens))
    else:
        decoded, same_tokens = (_in_two_batches(_proxy_logits(each), expected) for each in (pipe, exported))
        losses["proxy_logits_difference"] = _difference(decoded, same_tokens)
    if pipe.transformer is not None:
        codes, labels = _generator_inputs(pipe, expected)
        logits, others = (
            _in_two_batches(lambda codes, labels, of=each: of.transformer(codes, labels).logits, codes, labels)
            for each in (pipe, exported)
        )
        losses["logits_difference"] = _difference(logits, others)
        losses["best_codes_that_differ"] = _share(logits.argmax(-1) != others.argmax(-1))
    wrong = [name for name, value in losses.items() if value is not None and not math.isfinite(value)]
    if wrong:
        raise ValueError(
            f"The exported model computes numbers that are not finite ({', '.join(wrong)}). Choose another precision."
        )
    return losses


def check_agreement(losses: dict[str, Any]) -> None:
    """ValueError if an export in float32 differs from PyTorch by more than rounding."""
    for name, value in losses.items():
        limit = _LARGEST_RELATIVE_DIFFERENCE if name.endswith("_difference") else _LARGEST_SHARE_OF_CODES
        if name.endswith(("_difference", "_that_differ")) and value > limit:
            raise ValueError(
                f"The exported model does not compute what PyTorch computes: {name} is {value:.2g}, and at most "
                f"{limit} is expected in float32. Nothing was written; please report it with the libraries' versions."
            )


def _images(pipe: TiTokPipeline) -> torch.Tensor:
    """Images of the size of a tokenizer, float32 in [0, 1]."""
    config = pipe.tokenizer.config
    number = _MANY_IMAGES if config.image_size <= _SMALL_SIZE else _FEW_IMAGES
    if config.num_channels == 3:
        return pipe.preprocess(example_images()[:number])
    shape = (number, config.num_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _generator_inputs(pipe: TiTokPipeline, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of real images, half of them masked, and labels of all classes in turn and of no class."""
    masked = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    labels = torch.arange(len(codes)) % (pipe.transformer.null_class_label + 1)
    return codes.masked_fill(masked, pipe.transformer.mask_token_id), labels


def _in_two_batches(function: Any, *tensors: torch.Tensor) -> torch.Tensor:
    """A function of a batch, called for the first row and for the others."""
    return torch.cat([function(*(tensor[rows] for tensor in tensors)) for rows in (slice(1), slice(1, None))])


def _pixels(pipe: TiTokPipeline) -> Any:
    return lambda tokens: pipe.decode(tokens, output_type="pt")


def _proxy_logits(pipe: TiTokPipeline) -> Any:
    return lambda codes: pipe.tokenizer.decode(codes=codes, return_dict=True).logits


def _share(differs: torch.Tensor) -> float:
    return differs.double().mean().item()


def _difference(expected: torch.Tensor, computed: torch.Tensor) -> float:
    return ((expected.double() - computed.double()).abs().max() / expected.double().abs().max()).item()


def _psnr(images: torch.Tensor, others: torch.Tensor) -> float | None:
    """The mean over images in dB; None if they are equal."""
    errors = (images.double() - others.double()).square().flatten(1).mean(dim=1)
    return None if not errors.any() else (-10 * errors.clamp(min=1e-12).log10()).mean().item()
