"""Re-initialisation of unused codes: who moves, where to, and what stays."""

import pytest
import torch
from accelerate import Accelerator

from tiny_pipeline import tiny_tokenizer
from titok_hf.training.codebook import CodebookReinitializer


@pytest.fixture
def watched():
    model = tiny_tokenizer(codebook_l2_norm=False).train()
    return model.quantizer, CodebookReinitializer(model.quantizer, Accelerator(cpu=True))


def test_unused_entries_move_to_the_closest_token_and_used_ones_stay(watched):
    quantizer, reinitializer = watched
    with torch.no_grad():
        quantizer.codebook.weight.copy_(torch.arange(16.0)[:, None].expand(-1, 4) * 100)
    tokens = torch.tensor([1.0, 2.0, 590.0, 612.0])[:, None].expand(-1, 4)[None]  # nearest entries: 0, 0, 6, 6
    codes = quantizer(tokens).codes
    assert codes.tolist() == [[0, 0, 6, 6]]
    before = quantizer.codebook.weight.clone()
    reinitializer.step()
    after = quantizer.codebook.weight
    assert torch.allclose(after[[0, 6]], before[[0, 6]])
    assert torch.allclose(after[1:3], torch.tensor(2.0).expand(2, 4), rtol=0.25)  # closest to 100 and 200 is 2
    assert torch.allclose(after[5], torch.tensor(590.0), rtol=1e-2)
    assert torch.allclose(after[7:], torch.tensor(612.0), rtol=2e-2)


def test_an_entry_in_use_is_left_alone_for_a_while_after_its_last_use(watched):
    quantizer, reinitializer = watched
    tokens = quantizer.codebook.weight.detach()[None, :8].clone()
    quantizer(tokens)
    reinitializer.step()
    entry = quantizer.codebook.weight[3].clone()
    quantizer(tokens[:, :2])  # entry 3 gets nothing now, but its average remembers
    reinitializer.step()
    assert torch.allclose(quantizer.codebook.weight[3], entry, atol=1e-3)


def test_evaluation_is_not_watched(watched):
    quantizer, reinitializer = watched
    quantizer(torch.randn(1, 4, 4))
    seen = reinitializer._codes
    quantizer.eval()
    quantizer(torch.randn(2, 4, 4))
    assert reinitializer._codes is seen


def test_state_survives_a_checkpoint(watched):
    quantizer, reinitializer = watched
    quantizer(torch.randn(1, 4, 4))
    reinitializer.step()
    other = CodebookReinitializer(tiny_tokenizer().quantizer, Accelerator(cpu=True))
    other.load_state_dict(reinitializer.state_dict())
    assert torch.equal(other.usage, reinitializer.usage)
    assert reinitializer.usage.sum() > 0
