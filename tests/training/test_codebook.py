"""titok_hf.training.codebook: counts over processes; unused codes: who moves, where to, and what stays."""

import math

import pytest
import torch
from accelerate import Accelerator

from tiny_pipeline import tiny_tokenizer
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.training.codebook import CodebookCounter, CodebookReinitializer


@pytest.fixture
def watched():
    model = tiny_tokenizer(codebook_l2_norm=False).train()
    return model.quantizer, CodebookReinitializer(model.quantizer, Accelerator(cpu=True))


class OneOfTwoProcesses:
    """Stands where an accelerator does, and answers reductions and gathers with what the other process would bring."""

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, others: list[torch.Tensor]):
        self.others = iter(others)

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return value + next(self.others)

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value, next(self.others)])


def test_counts_are_those_since_the_last_time():
    counter = CodebookCounter(16, Accelerator(cpu=True))
    counter.update(torch.tensor([[0, 3], [3, 3]]))
    counter.update(torch.tensor([0, 0]))
    assert counter.compute() == {"codes_used": 2, "codebook_perplexity": pytest.approx(2.0)}
    assert counter.compute() == {}
    counter.update(torch.arange(16))
    assert counter.compute() == {"codes_used": 16, "codebook_perplexity": pytest.approx(16.0)}


def test_counts_are_those_of_all_processes():
    counter = CodebookCounter(4, OneOfTwoProcesses([torch.tensor([0, 2, 4, 0])]))
    counter.update(torch.tensor([0, 0]))
    entropy = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))
    assert counter.compute() == {"codes_used": 3, "codebook_perplexity": pytest.approx(math.exp(entropy))}


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


def test_an_entry_moves_to_the_closest_token_of_all_processes():
    model = tiny_tokenizer(codebook_l2_norm=False).train()
    with torch.no_grad():
        model.quantizer.codebook.weight.copy_(torch.arange(16.0)[:, None].expand(-1, 4) * 100)
    counts = torch.zeros(16)
    counts[[0, 9]] = 1  # the other process has tokens 3 and 880
    distances = torch.tensor([3.0, 880.0])[:, None].sub(torch.arange(16.0) * 100).square().mul(4).min(dim=0)
    anchors = torch.tensor([3.0, 880.0])[distances.indices][:, None].expand(-1, 4)
    accelerator = OneOfTwoProcesses([counts, distances.values[None], anchors[None]])
    reinitializer = CodebookReinitializer(model.quantizer, accelerator)
    model.quantizer(torch.tensor([2.0, 590.0])[:, None].expand(-1, 4)[None])
    reinitializer.step()
    after = model.quantizer.codebook.weight
    # Entries 0, 6 and 9 are in use, by one process or the other.
    assert torch.allclose(after[[0, 6, 9], 0], torch.tensor([0.0, 600.0, 900.0]))
    assert torch.allclose(after[[5, 7], 0], torch.tensor(590.0), rtol=1e-2)
    assert torch.allclose(after[[8, 10, 15], 0], torch.tensor(880.0), rtol=1e-2)
    assert torch.allclose(after[1, 0], torch.tensor(3.0), atol=0.2)


def test_the_teacher_s_quantiser_is_watched_too():
    config = MaskGitVQGANConfig(
        base_channels=8, channel_multipliers=[1, 1], num_resnet_blocks=1, num_groups=4, codebook_size=8, codebook_dim=4
    )
    quantizer = MaskGitVQGANModel(config).train().quantizer
    with torch.no_grad():
        quantizer.codebook.weight.copy_(torch.arange(8.0)[:, None].expand(-1, 4) * 100)
    reinitializer = CodebookReinitializer(quantizer, Accelerator(cpu=True))
    latents = torch.tensor([[1.0, 2.0], [290.0, 312.0]]).expand(1, 4, 2, 2)  # nearest entries: 0, 0, 3, 3
    quantizer(latents.flatten(2).mT)
    reinitializer.step()
    after = quantizer.codebook.weight[:, 0]
    assert torch.allclose(after[[0, 3]], torch.tensor([0.0, 300.0]))
    assert torch.allclose(after[2], torch.tensor(290.0), rtol=1e-2)
    assert torch.allclose(after[4:], torch.tensor(312.0), rtol=2e-2)


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
    codes = quantizer(torch.randn(1, 4, 4)).codes.flatten()
    quantizer.eval()
    quantizer(torch.randn(2, 4, 4))
    reinitializer.step()
    assert torch.allclose(reinitializer.usage, torch.bincount(codes, minlength=16) / 4 * 0.01)


def test_all_batches_since_the_last_step_count_together(watched):
    """As one large batch: two calls move the codebook as the one call with both does."""
    quantizer, reinitializer = watched
    tokens = torch.randn(2, 4, 4)
    before = quantizer.codebook.weight.detach().clone()
    results = []
    for batches in ([tokens], tokens.split(1)):
        with torch.no_grad():
            quantizer.codebook.weight.copy_(before)
        reinitializer.usage.zero_()
        for batch in batches:
            quantizer(batch)
        reinitializer.step()
        results.append((quantizer.codebook.weight.detach().clone(), reinitializer.usage.clone()))
    assert not torch.equal(results[0][0], before)
    for whole, halves in zip(*results, strict=True):
        torch.testing.assert_close(halves, whole)


def test_state_survives_a_checkpoint(watched):
    quantizer, reinitializer = watched
    quantizer(torch.randn(1, 4, 4))
    reinitializer.step()
    other = CodebookReinitializer(tiny_tokenizer().quantizer, Accelerator(cpu=True))
    other.load_state_dict(reinitializer.state_dict())
    assert torch.equal(other.usage, reinitializer.usage)
    assert reinitializer.usage.sum() > 0
