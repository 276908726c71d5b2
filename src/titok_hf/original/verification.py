"""Verification of conversions: every tensor is compared bit by bit, and both formats must compute the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel

from .loading import generator_adapter, maskgit_vqgan_adapter, titok_adapter
from .state_dict_adapter import StateDictAdapter


class VerificationError(ValueError):
    """A conversion changed something. Nothing was written."""


@dataclass(frozen=True)
class Verification:
    """
    The result of a verification that succeeded.

    Args:
        num_tensors, num_parameters, dtypes: of the original state dict.
        checks: descriptions of what was compared.
    """

    num_tensors: int
    num_parameters: int
    dtypes: tuple[str, ...]
    checks: tuple[str, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> "Verification":
        """Of a state dict whose tensors were all compared."""
        return cls(
            num_tensors=len(tensors),
            num_parameters=sum(tensor.numel() for tensor in tensors.values()),
            dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})),
            checks=("names, shapes and dtypes agree", "each tensor comes back bit for bit"),
        )

    def with_check(self, check: str) -> "Verification":
        """One more thing that was compared."""
        return replace(self, checks=(*self.checks, check))

    def __str__(self) -> str:
        size = f"{self.num_tensors} tensors, {self.num_parameters:,} parameters, {', '.join(self.dtypes)}"
        return f"{size}: {'; '.join(self.checks)}"


def adapter_of(model: Any, flax: bool = False) -> StateDictAdapter:
    """The adapter of one of our models."""
    if isinstance(model, TiTokModel):
        return titok_adapter(model.config, model.state_dict())
    if isinstance(model, MaskGitVQGANModel):
        return maskgit_vqgan_adapter(model.config, model.state_dict(), flax)
    return generator_adapter(model.config, model.state_dict())


@torch.no_grad()
def trial_run(model: Any) -> list[torch.Tensor]:
    """All outputs of a model for one fixed input; VerificationError if they are not finite, or for unknown codes."""
    if isinstance(model, MaskGitTransformer1DModel):
        masked = torch.full((1, model.config.num_latent_tokens), model.mask_token_id)
        outputs = [model(masked, class_labels=torch.zeros(1, dtype=torch.long)).logits]
    else:
        outputs = _reconstruct(model)
    for output in outputs:
        if not output.isfinite().all():
            raise VerificationError("The network's output is not finite. The checkpoint is damaged.")
        if not output.is_floating_point() and not 0 <= output.min() <= output.max() < model.config.codebook_size:
            raise VerificationError(f"The network's codes are from {output.min()} to {output.max()}.")
    return outputs


def _reconstruct(model: TiTokModel | MaskGitVQGANModel) -> list[torch.Tensor]:
    image_size = getattr(model.config, "image_size", 256)
    shape = (1, model.config.num_channels, image_size, image_size)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    # KL models: the mean, because samples differ.
    choices = {"sample_posterior": False} if isinstance(model, TiTokModel) else {}
    encoded = model.encode(image, **choices, return_dict=True)
    decoded = model.decode(latents=encoded.latents, return_dict=True)
    outputs = [encoded.codes, encoded.latents, getattr(decoded, "logits", None), decoded.pixel_values]
    return [output for output in outputs if output is not None]


def verify_tensors(adapter: StateDictAdapter, original: Mapping[str, torch.Tensor], folder: Path) -> Verification:
    """
    Read a folder that `save_pretrained` wrote, one tensor at a time, translate it back and compare it with the
    original state dict.

    Raises:
        VerificationError: a tensor that is missing, unexpected, or differs in shape, dtype or any bit.
    """
    compared: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                if name not in adapter.originals:
                    raise VerificationError(f"{name} was written, but the model has no such tensor.")
                names, layout = adapter.originals[name].names, adapter.originals[name].layout
                for key, tensor in zip(names, layout.to_original(file.get_tensor(name)), strict=True):
                    if not same_bits(tensor, original[key]):
                        raise VerificationError(f"{key} differs after its conversion to {name} and back.")
                    compared[key] = original[key]
    missing = [key for key in adapter.expected_shapes if key not in compared]
    if missing:
        raise VerificationError(f"{len(missing)} tensors were not written, {missing[0]} the first.")
    return Verification.of(compared)


def verify_outputs(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    """VerificationError unless the outputs of both formats are equal."""
    if len(before) != len(after) or not all(map(torch.equal, before, after)):
        raise VerificationError("The network computes something else after the conversion.")


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in shape, dtype and every bit, so that NaN equals itself and 0 is not -0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.contiguous().view(integers), other.contiguous().view(integers))
