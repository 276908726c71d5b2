"""The masked-token objective against the original's figures."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import golden_fill
from titok_hf.training.losses import mask_from, masked_token_loss, random_mask

DATA = Path(__file__).parents[1] / "data"
MASKING = json.loads((DATA / "training_masking.json").read_text())
LOSSES = json.loads((DATA / "training_mlm_loss.json").read_text())


@pytest.mark.parametrize("case", MASKING["counts"], ids=lambda case: f"{case['seq_len']} tokens")
def test_number_of_hidden_tokens_equals_the_original(case):
    progress = torch.tensor(case["timesteps"])
    mask = mask_from(progress, torch.rand(len(progress), case["seq_len"]))
    assert mask.sum(dim=1).tolist() == case["num_masked"]


@pytest.mark.parametrize("case", MASKING["draws"], ids=lambda case: f"{case['seq_len']} tokens")
def test_hidden_positions_equal_the_original_for_the_same_draws(case):
    length, batch = case["seq_len"], case["batch"]
    progress = torch.from_numpy(golden_fill.uniform(f"mask-t:a:{length}", (batch,)))
    order = torch.from_numpy(golden_fill.uniform(f"mask-perm:a:{length}", (batch, length)))
    mask = mask_from(progress, order)
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


def test_accuracy_counts_hidden_tokens_alone():
    logits = torch.eye(4)[None] * 5  # the likeliest code of token n is n
    codes = torch.tensor([[0, 1, 0, 0]])
    mask = torch.tensor([[True, False, True, False]])
    assert masked_token_loss(logits, codes, mask, 0.0, 0.1)["accuracy"] == 0.5


@given(batch=st.integers(1, 4), length=st.integers(1, 40))
def test_every_example_hides_at_least_one_token(batch, length):
    mask = random_mask(torch.zeros(batch, length))
    assert mask.shape == (batch, length)
    assert mask.any(dim=1).all()
