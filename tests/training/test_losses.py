"""titok_hf.training.losses: the masked-token objective against the original's figures, and shares of a batch."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import golden_fill
from simulated_processes import on_each_process
from titok_hf.scheduling_maskgit import MaskGitScheduler
from titok_hf.training.generator import GeneratorTask
from titok_hf.training.losses import masked_token_loss, pixel_loss, proxy_code_loss, weighted_loss

DATA = Path(__file__).parents[1] / "data"
MASKING = json.loads((DATA / "training_masking.json").read_text())
LOSSES = json.loads((DATA / "training_mlm_loss.json").read_text())


def masked_by(progress: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Which tokens the task of a generator masks with the default sampler, given both draws."""
    task = SimpleNamespace(pipeline=SimpleNamespace(scheduler=MaskGitScheduler(mask_token_id=9)))
    codes = torch.zeros(order.shape, dtype=torch.long)
    return GeneratorTask._mask(task, codes, GeneratorTask._mask_shares(task, progress), order)


@pytest.mark.parametrize("case", MASKING["counts"], ids=lambda case: f"{case['seq_len']} tokens")
def test_number_of_masked_tokens_equals_the_original(case):
    progress = torch.tensor(case["timesteps"])
    mask = masked_by(progress, torch.rand(len(progress), case["seq_len"]))
    assert mask.sum(dim=1).tolist() == case["num_masked"]


@pytest.mark.parametrize("case", MASKING["draws"], ids=lambda case: f"{case['seq_len']} tokens")
def test_masked_positions_equal_the_original_for_the_same_draws(case):
    length, batch = case["seq_len"], case["batch"]
    progress = torch.from_numpy(golden_fill.uniform(f"mask-t:a:{length}", (batch,)))
    order = torch.from_numpy(golden_fill.uniform(f"mask-perm:a:{length}", (batch, length)))
    mask = masked_by(progress, order)
    assert [row.nonzero().flatten().tolist() for row in mask] == case["masked_positions"]


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: f"unmasked weight {case['loss_weight_unmasked_token']}")
def test_loss_and_gradient_equal_the_original(case):
    batch, length, codebook_size = case["shape"]
    codes = torch.from_numpy(golden_fill.integers("mlm-targets:a", (batch, length), codebook_size))
    logits = torch.from_numpy(golden_fill.normal("mlm-logits:a", (batch, length, codebook_size), std=1.5))
    logits[:, ::3].scatter_add_(2, codes[:, ::3, None], torch.full((batch, (length + 2) // 3, 1), 6.0))
    draws = torch.from_numpy(golden_fill.integers("mlm-mask:a", (batch, length), 10))
    mask = draws < torch.tensor([9, 5, 1])[:, None]
    assert mask.sum() == case["masked"]
    logits.requires_grad_()
    result = masked_token_loss(logits, codes, mask, case["label_smoothing"], case["loss_weight_unmasked_token"])
    result["loss"].backward()
    assert result["loss"].item() == pytest.approx(case["result"]["loss"], rel=1e-5)
    assert logits.grad.norm().item() == pytest.approx(case["grad_wrt_logits"]["norm"], rel=1e-3)
    # Its mean over images; the share of all masked tokens would be another number.
    assert result["accuracy"].item() == pytest.approx(case["result"]["correct_tokens"], rel=1e-6)


def test_accuracy_counts_masked_tokens_alone():
    logits = torch.eye(4)[None] * 5  # the likeliest code of token n is n
    codes = torch.tensor([[0, 1, 0, 0]])
    mask = torch.tensor([[True, False, True, False]])
    assert masked_token_loss(logits, codes, mask, 0.0, 0.1)["accuracy"] == 0.5


def test_two_processes_with_half_the_batch_equal_one():
    """They have different numbers of masked tokens, so the mean of two ratios would be wrong."""
    logits, codes = torch.randn(4, 6, 5), torch.randint(5, (4, 6))
    mask = torch.arange(6) < torch.tensor([6, 1, 5, 2])[:, None]

    def compute(share, mean_over_processes):
        share_logits = logits[share].clone().requires_grad_()
        sum_of_weights = mean_over_processes((mask[share] + 0.1 * ~mask[share]).sum())
        result = masked_token_loss(share_logits, codes[share], mask[share], 0.1, 0.1, sum_of_weights)
        (gradient,) = torch.autograd.grad(result["loss"], share_logits)
        return torch.stack([result["loss"].detach(), result["accuracy"]]), gradient

    scalars, gradient = compute(slice(None), lambda tensor: tensor)
    halves = on_each_process(compute, [slice(0, None, 2), slice(1, None, 2)])
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, scalars)
    for process, (_, half) in enumerate(halves):
        torch.testing.assert_close(half / 2, gradient[process::2])


def test_losses_are_computed_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    images = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16)
    assert pixel_loss(images, images + 0.25).dtype == torch.float32
    logits = torch.tensor([[[256.0, 255.0]]], dtype=torch.bfloat16)
    assert proxy_code_loss(logits, torch.tensor([[1]])).item() == pytest.approx(1.313262, rel=1e-5)


def test_a_term_without_a_weight_is_refused():
    assert weighted_loss({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": 1.0, "b": 0.5})["loss"] == 3.5
    with pytest.raises(KeyError, match="b"):
        weighted_loss({"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, {"a": 1.0})
