"""titok_hf.training.rng: the numbers of a step are those of the global batch, whoever draws them and when."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from titok_hf.training.rng import StepRng

CPU = torch.device("cpu")

seeds = st.integers(0, 2**32 - 1)
positions = st.integers(0, 10**7)
processes = st.integers(1, 5)
batch_sizes = st.integers(1, 6)


def interleaved(shares: list[torch.Tensor]) -> torch.Tensor:
    """Row r of the global batch lies with process r modulo their number."""
    return torch.stack(shares, dim=1).flatten(0, 1)


def draw(randomness: StepRng, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a step draws, in the order in which it does so."""
    noise = [torch.rand(2, generator=generator) for generator in randomness.generators(batch_size)]
    return randomness.uniform(batch_size), randomness.uniform(batch_size, 3), torch.stack(noise)


@settings(max_examples=40, deadline=None)
@given(seeds, positions, processes, batch_sizes)
def test_processes_hold_the_rows_of_one_global_draw(seed, position, num_processes, batch_size):
    whole = draw(StepRng(seed, position, 0, 1, CPU), batch_size * num_processes)
    shares = [draw(StepRng(seed, position, index, num_processes, CPU), batch_size) for index in range(num_processes)]
    for expected, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(interleaved(list(parts)), expected)


@settings(max_examples=20, deadline=None)
@given(seeds, positions)
def test_numbers_depend_on_seed_and_place_alone(seed, position):
    first = draw(StepRng(seed, position, 0, 1, CPU), 4)
    torch.rand(7)
    draw(StepRng(seed, position + 1, 0, 1, CPU), 5)
    again = draw(StepRng(seed, position, 0, 1, CPU), 4)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    for other in (StepRng(seed, position + 1, 0, 1, CPU), StepRng(seed + 1, position, 0, 1, CPU)):
        assert not torch.equal(draw(other, 4)[1], first[1])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draw(StepRng(0, 0, 0, 1, CPU), 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_uniform():
    draws = torch.cat([StepRng(0, position, 0, 1, CPU).uniform(100) for position in range(100)])
    assert draws.dtype == torch.float32
    assert 0 <= draws.min() and draws.max() < 1
    # Standard error of the mean of 10,000 draws: 1 / sqrt(12 * 10,000) = 0.0029.
    assert draws.mean().item() == pytest.approx(0.5, abs=0.012)
    assert draws.histc(10, 0, 1).tolist() == pytest.approx([1_000] * 10, abs=120)  # standard deviation 30


def test_examples_have_generators_of_their_own():
    noise = [torch.randn(8, generator=generator) for generator in StepRng(0, 0, 0, 1, CPU).generators(16)]
    assert len({tuple(values.tolist()) for values in noise}) == 16
