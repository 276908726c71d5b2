"""Checks of what a caller gives to the pipeline: images, tokens, generators, callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image

from .accepted_values import check_generator, integer_codes, real_number
from .image_processing_pil_titok import single_images

if TYPE_CHECKING:
    from .configuration_titok import TiTokConfig

OneImage: TypeAlias = Image.Image | np.ndarray | torch.Tensor | str | bytes | os.PathLike
Images: TypeAlias = OneImage | Sequence[OneImage]
Tokens: TypeAlias = torch.Tensor | np.ndarray | Sequence
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]
StepCallback: TypeAlias = Callable[
    [DiffusionPipeline, int, torch.Tensor, dict[str, torch.Tensor]], "dict[str, torch.Tensor] | None"
]

CALLBACK_TENSORS = ("codes", "predicted_codes")


def list_of_images(images: Images) -> list[Any]:
    """Single images out of one or several, in any nesting; ValueError if there are none."""
    found = list(single_images(images))
    if not found:
        raise ValueError("There are no images. Give at least one.")
    return found


def checked_tokens(tokens: Tokens, config: TiTokConfig, name: str = "tokens") -> torch.Tensor:
    """
    Tokens in any container as one tensor: codes, int64, shape (batch, num_latent_tokens); latents of a KL tokenizer,
    shape (batch, num_latent_tokens, codebook_dim). Waits for their device.

    Raises:
        ValueError: none, another shape or dtype, codes outside the codebook, or latents that are not finite.
    """
    tensor = _as_tensor(tokens, name)
    if config.has_codebook:
        return config.checked_codes(tensor, name)
    config.check_latents(tensor)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} has values that are not finite numbers. Use what `encode` returns.")
    return tensor


def editing_inputs(
    init_codes: Tokens, strength: float | None, mask: Tokens | None, config: TiTokConfig
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Codes to start from, and the positions to resample if a mask says so.

    Raises:
        ValueError: neither or both of strength and mask, or one of the three that does not fit.
    """
    if (strength is None) == (mask is None):
        raise ValueError("init_codes needs exactly one of strength and mask, to say what to resample. Pass one.")
    if strength is not None and not 0 < real_number("strength", strength) <= 1:
        raise ValueError(f"strength is {strength}, but it is a share of the codes. Use a number above 0, up to 1.")
    codes = checked_tokens(init_codes, config, "init_codes")
    if mask is None:
        return codes, None
    positions = _as_tensor(mask, "mask").to(codes.device)
    if positions.dtype != torch.bool or positions.shape != codes.shape:
        raise ValueError(
            f"mask has shape {tuple(positions.shape)} and dtype {positions.dtype}, but it must be bool and of the "
            f"shape of init_codes, {tuple(codes.shape)}."
        )
    return codes, positions


def checked_generators(
    generator: Generators | None, num_images: int
) -> torch.Generator | list[torch.Generator] | None:
    """One generator as it is, several as a list; ValueError for anything else or another number than of images."""
    if not isinstance(generator, list | tuple):
        check_generator(generator)
        return generator
    for each in generator:
        check_generator(each)
    if len(generator) != num_images or None in generator:
        raise ValueError(f"generator is a list of {len(generator)} for {num_images} images. Give one for each image.")
    return list(generator)


def tensors_of_callback(callback: StepCallback | None, names: Sequence[str]) -> Sequence[str]:
    """
    Names of the tensors that a callback gets: its own where it is one of diffusers' classes, `names` otherwise.

    Raises:
        ValueError: a callback that cannot be called, or names of tensors that a callback cannot have.
    """
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end is {callback!r}, but a function is expected.")
    if isinstance(names, str):
        raise ValueError(f"callback_on_step_end_tensor_inputs is {names!r}. Give a list of names: [{names!r}].")
    unknown = [str(name) for name in names if name not in CALLBACK_TENSORS]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs has {', '.join(unknown)}. There are: {', '.join(CALLBACK_TENSORS)}."
        )
    return names


def codes_from_callback(returned: Any, codes: torch.Tensor) -> torch.Tensor:
    """
    The input of the next step: the codes that a callback returned, or the ones before. Values are not checked.

    Raises:
        ValueError: neither None nor a dictionary, or codes of another type, shape or dtype.
    """
    if returned is None:
        return codes
    if not isinstance(returned, dict):
        raise ValueError(
            f"callback_on_step_end returned {type(returned).__name__}. Return a dictionary of tensors or None."
        )
    new = returned.get("codes", codes)
    if not isinstance(new, torch.Tensor):
        raise ValueError(f"callback_on_step_end returned codes of type {type(new).__name__}. Return a torch tensor.")
    if new.shape != codes.shape:
        raise ValueError(
            f"callback_on_step_end returned codes of shape {tuple(new.shape)}, but they had {tuple(codes.shape)}."
        )
    return integer_codes(new, "The codes that callback_on_step_end returned").to(codes.device)


def _as_tensor(values: Tokens, name: str) -> torch.Tensor:
    """Values in any container, of at least one image; a list may hold one tensor for each image."""
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], torch.Tensor):
            tensor = torch.stack(list(values))
        else:
            tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read as one tensor ({error}). Use what `encode` returns.") from error
    if not tensor.numel():
        raise ValueError(f"There are no tokens in {name}. Give those of at least one image.")
    return tensor
