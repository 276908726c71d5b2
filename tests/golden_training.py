"""What the golden figures of training are made of: images, the discriminator's weights, gradients of the original."""

import json
from typing import Any

import pytest
import torch

import golden_fill
from golden_checkpoints import GOLDEN
from titok_hf.training.discriminator import Discriminator

# Ours in the order of the state dict, and what the original calls them.
DISCRIMINATOR_NAMES = {
    "conv_in": "block_in.0",
    **{f"stages.{stage}.conv": f"blocks.{stage}.0" for stage in range(3)},
    **{f"stages.{stage}.norm": f"blocks.{stage}.2" for stage in range(3)},
    "conv_hidden": "to_logits.0",
    "conv_logits": "to_logits.2",
}


def case(name: str) -> Any:
    """Figures of a training case that has no arrays."""
    return json.loads((GOLDEN / f"training_{name}.json").read_text())


def original_name(name: str) -> str:
    """What the original calls a parameter of the discriminator."""
    module, _, leaf = name.rpartition(".")
    return f"{DISCRIMINATOR_NAMES[module]}.{leaf}"


def filled_discriminator() -> Discriminator:
    original = golden_fill.fill_state_dict(json.loads((GOLDEN / "discriminator.json").read_text()))
    discriminator = Discriminator()
    tensors = {name: original.pop(original_name(name)) for name in discriminator.state_dict()}
    assert not original, "every tensor of the original is one of ours"
    discriminator.load_state_dict(tensors)
    return discriminator


def real_and_fake(share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images, and the same with `share` of two others mixed in, which needs gradients."""
    images, others = golden_fill.image_batch("titok-a"), golden_fill.image_batch("titok-a-recon")
    return images, (images * (1 - share) + others * share).requires_grad_()


def assert_gradient(gradient: torch.Tensor, figures: dict[str, Any]) -> None:
    """The norm, and the first elements within the same share of the largest of them."""
    assert gradient.norm().item() == pytest.approx(figures["norm"], rel=1e-3)
    first = torch.tensor(figures["first"])
    tolerance = 1e-3 * first.abs().max().item()
    torch.testing.assert_close(gradient.flatten()[: len(first)], first, rtol=1e-3, atol=tolerance)
