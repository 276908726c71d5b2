"""Checks of what a caller gives to the pipeline: images, tokens, generators, callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image

from .accepted_values import check_generator, integer_codes, real_number, whole_number
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


def check_parts(tokenizer: Any, transformer: Any, scheduler: Any) -> None:
    """ValueError if the models and the scheduler of a pipeline do not fit one another; those left out are None."""
    if (transformer is None) != (scheduler is None):
        raise ValueError("transformer and scheduler need one another. Pass both, or neither for a tokenizer only.")
    if tokenizer is None or transformer is None:
        return
    config, generator = tokenizer.config, transformer.config
    if not config.has_codebook:
        raise ValueError("The tokenizer is a KL model and has no codes to generate. Leave transformer out.")
    for name in ("num_latent_tokens", "codebook_size"):
        if getattr(config, name) != getattr(generator, name):
            raise ValueError(
                f"{name} is {getattr(config, name)} in the tokenizer and {getattr(generator, name)} in the "
                "transformer. Use the generator that was trained on this tokenizer's codes."
            )
    if scheduler.config.mask_token_id != transformer.mask_token_id:
        raise ValueError(
            f"mask_token_id is {scheduler.config.mask_token_id} in the scheduler and {transformer.mask_token_id} in "
            f"the transformer. Use MaskGitScheduler(mask_token_id={transformer.mask_token_id})."
        )


def check_output_type(output_type: str, *more: str) -> None:
    """ValueError for anything but "pil", "np", "pt", and `more`."""
    known = ("pil", "np", "pt", *more)
    if output_type not in known:
        raise ValueError(f"output_type is {output_type!r}, which does not exist. Use one of {', '.join(known)}.")


def batches_of(num_items: int, batch_size: int) -> Iterator[slice]:
    """Slices of at most `batch_size` items; ValueError for an impossible batch size."""
    batch_size = whole_number("batch_size", batch_size)
    for start in range(0, num_items, batch_size):
        yield slice(start, start + batch_size)


def list_of_images(images: Images) -> list[Any]:
    """Single images out of one or several, in any nesting; ValueError if there are none."""
    found = list(single_images(images))
    if not found:
        raise ValueError("There are no images. Give at least one.")
    return found


def checked_tokens(tokens: Tokens, config: TiTokConfig, name: str = "tokens") -> torch.Tensor:
    """
    Tokens in any container as one tensor: codes, int64, shape (batch, num_latent_tokens); latents of a KL tokenizer,
    shape (batch, num_latent_tokens, codebook_dim). With tail drop there may be fewer tokens. Waits for their device.

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
    if codes.shape[1] != config.num_latent_tokens:
        raise ValueError(
            f"init_codes has {codes.shape[1]} tokens for each image, but the generator predicts all "
            f"{config.num_latent_tokens}. Encode the images without num_tokens."
        )
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
