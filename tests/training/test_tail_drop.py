"""Training with tail drop: how many tokens a step keeps, what the losses see, exact resume, tests with all tokens."""

from collections import Counter

import pytest
import torch

from titok_hf.modeling_titok import TiTokModel
from titok_hf.training.rng import StepRng
from titok_hf.training.start import make_accelerator, make_task
from training_runs import cut_off, equal, loop_of, recipe_of, series, trained

CPU = torch.device("cpu")


@pytest.fixture(params=["tokenizer", "kl", "stage1"])
def values(request, values_of):
    values = values_of(request.param)
    values["model"] = dict(values["model"]) | {"tail_drop": True}
    return values


def recorded_lengths(loop) -> list[int]:
    """Shapes of what the decoder gets in training, as the run goes on."""
    lengths: list[int] = []

    def record(decoder, inputs) -> None:
        if decoder.training:
            lengths.append(inputs[0].shape[1])

    loop.task.model.decoder.register_forward_pre_hook(record)
    return lengths


def test_the_number_of_kept_tokens_is_uniform_and_the_same_for_all_shares_of_a_step():
    numbers = [StepRng(0, step, 0, 1, CPU).integer(1, 8) for step in range(8_000)]
    counts = Counter(numbers)
    assert set(counts) == set(range(1, 9))
    # chi-square with 7 degrees of freedom: 24.3 is the 99.9th percentile
    assert sum((count - 1_000) ** 2 / 1_000 for count in counts.values()) < 24.3
    for step in range(20):
        shares = [StepRng(0, step, rank, 2, CPU, batch, 2) for rank in range(2) for batch in range(2)]
        assert {share.integer(1, 8) for share in shares} == {numbers[step]}
    assert numbers[:20] != [StepRng(1, step, 0, 1, CPU).integer(1, 8) for step in range(20)]


def test_a_run_decodes_first_tokens_and_resumes_exactly(values, tmp_path):
    values["intervals"] |= {"log_every": 1}
    lengths = recorded_lengths(loop := loop_of(values, output_dir=str(tmp_path / "whole")))
    loop.run()
    num_steps, num_tokens = values["optimization"]["num_steps"], loop.task.model.config.num_latent_tokens
    expected = [StepRng(values.get("seed", 0), step, 0, 1, CPU).integer(1, num_tokens) for step in range(num_steps)]
    assert lengths == expected and len(set(lengths)) > 1
    cut_off(values, num_steps // 2 + 1, output_dir=str(tmp_path / "run"))
    weights = trained(values, output_dir=str(tmp_path / "run"))
    assert equal(weights, trained(values, output_dir=str(tmp_path / "again")))
    assert TiTokModel.from_pretrained(tmp_path / "run" / "model").config.tail_drop
    assert series({"output_dir": str(tmp_path / "run")}, "loss") == series(
        {"output_dir": str(tmp_path / "whole")}, "loss"
    )


def test_tests_use_all_tokens(values):
    recipe = recipe_of(values)
    task = make_task(recipe, make_accelerator(recipe))
    lengths = []
    task.model.decoder.register_forward_pre_hook(lambda decoder, inputs: lengths.append(inputs[0].shape[1]))
    with torch.no_grad():
        task.model.eval()
        task.evaluate()
    assert set(lengths) == {task.model.config.num_latent_tokens}


def test_stage_2_inherits_tail_drop(stage2_values, stage1_tokenizer, tmp_path):
    stage1 = TiTokModel.from_pretrained(stage1_tokenizer)
    stage1.config.tail_drop = True
    stage1.save_pretrained(tmp_path / "stage1")
    loop = loop_of(stage2_values | {"tokenizer": str(tmp_path / "stage1")})
    lengths = recorded_lengths(loop)
    loop.run()
    assert loop.task.model.config.tail_drop and len(set(lengths)) > 1


def test_runs_without_tail_drop_use_no_further_random_numbers(values_of):
    values = values_of("kl")
    recipe = recipe_of(values)
    task = make_task(recipe, make_accelerator(recipe))
    rng = StepRng(0, 0, 0, 1, CPU)
    assert task.kept_tokens(rng) == {}
    assert torch.equal(rng.uniform(4), StepRng(0, 0, 0, 1, CPU).uniform(4))
