"""Configuration of the generator: published sizes, and checks of its fields and of its input."""

from typing import Any, Protocol

import torch

from .accepted_values import LARGEST_DEPTH, LARGEST_SIZE, can_look_at, integer_codes, real_number, whole_number

ARCHITECTURES = ("vit", "uvit")
"""A BERT, called ViT in the TiTok paper, and a U-ViT."""

_VIT = {
    "architecture": "vit",
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 3072,
    "dropout": 0.1,
}
# The published U-ViT has a dropout in its configuration, but was trained without one.
_UVIT = {
    "architecture": "uvit",
    "hidden_size": 1024,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "dropout": 0.0,
}

MASKGIT_VARIANTS: dict[str, dict[str, Any]] = {
    "l32": {**_VIT, "num_latent_tokens": 32},
    "b64": {**_VIT, "num_latent_tokens": 64},
    "s128": {**_UVIT, "num_latent_tokens": 128},
    "l64_512": {**_VIT, "num_latent_tokens": 64},
    "b128_512": {**_UVIT, "num_latent_tokens": 128},
}
"""The generators of the TiTok paper, for ImageNet at 256 and 512 pixels, each named after its tokenizer."""

_LIMITS = {
    "codebook_size": (1, LARGEST_SIZE),
    "num_latent_tokens": (1, LARGEST_SIZE),
    "num_classes": (0, LARGEST_SIZE),
    "hidden_size": (1, LARGEST_SIZE),
    "num_hidden_layers": (1, LARGEST_DEPTH),
    "num_attention_heads": (1, LARGEST_SIZE),
    "intermediate_size": (1, LARGEST_SIZE),
}


class MaskGitConfig(Protocol):
    """The fields of a generator's configuration that [`checked_ids`] reads."""

    codebook_size: int
    num_latent_tokens: int
    num_classes: int


def checked_fields(architecture: str, dropout: float, **sizes: int) -> dict[str, Any]:
    """
    The fields of a [`MaskGitTransformer1DModel`] as Python numbers.

    Raises:
        ValueError: an unknown architecture, a field of another type or out of range, or sizes that do not fit
            together.
    """
    fields: dict[str, Any] = {
        name: whole_number(name, sizes[name], lowest, highest) for name, (lowest, highest) in _LIMITS.items()
    }
    fields["dropout"] = real_number("dropout", dropout, 0.0, 1.0)
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {architecture!r}, which does not exist. Use one of {list(ARCHITECTURES)}.")
    if fields["hidden_size"] % fields["num_attention_heads"]:
        raise ValueError(
            f"hidden_size is {fields['hidden_size']}, which {fields['num_attention_heads']} attention heads cannot "
            "share. Use a multiple of num_attention_heads."
        )
    if architecture == "uvit" and fields["num_hidden_layers"] % 2:
        raise ValueError(
            f"num_hidden_layers is {fields['num_hidden_layers']}, but a U-ViT has equal numbers of blocks before and "
            "after its middle block. Use an even number."
        )
    return fields


def checked_ids(
    config: MaskGitConfig, input_ids: torch.Tensor, class_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Codes and labels of any integer dtype as int64.

    Args:
        config: of the generator.
        input_ids: shape (batch, num_latent_tokens), values in [0, codebook_size]; `codebook_size` is the mask token.
        class_labels: shape (batch,), values in [0, num_classes]; `num_classes` is no class.

    Raises:
        ValueError: no integers, another shape, or values out of range. Ranges are checked on the CPU only, because on
            an accelerator each step of sampling would wait for the device.
    """
    input_ids, class_labels = integer_codes(input_ids, "input_ids"), integer_codes(class_labels, "class_labels")
    num_latent_tokens, num_classes, mask_token_id = config.num_latent_tokens, config.num_classes, config.codebook_size
    if input_ids.ndim != 2 or input_ids.shape[1] != num_latent_tokens:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}, but this model reads (batch, {num_latent_tokens}). "
            f"Give {num_latent_tokens} codes for each image, with mask_token_id ({mask_token_id}) where unknown."
        )
    if class_labels.shape != input_ids.shape[:1]:
        raise ValueError(
            f"class_labels has shape {tuple(class_labels.shape)}, but input_ids holds {len(input_ids)} images. "
            f"Give one label for each image, {num_classes} for no class."
        )
    for name, values, largest, meaning_of_largest in (
        ("input_ids", input_ids, mask_token_id, "the mask token"),
        ("class_labels", class_labels, num_classes, "no class"),
    ):
        if not can_look_at(values) or not values.numel():
            continue
        for value in (values.min().item(), values.max().item()):
            if not 0 <= value <= largest:
                raise ValueError(
                    f"{name} has {value}, which this model does not know. Use integers from 0 to {largest}; "
                    f"{largest} is {meaning_of_largest}."
                )
    return input_ids, class_labels


__all__ = ["ARCHITECTURES", "MASKGIT_VARIANTS", "MaskGitConfig", "checked_fields", "checked_ids"]
