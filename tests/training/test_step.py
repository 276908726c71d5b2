"""titok_hf.training.step: gradients of a step, whoever computes them, and what a step that can't be made leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from training_runs import equal, loop_of, loop_with_scaler, same_state, series, trained

# The discriminator takes part from the first step on, and LeCam's term is as large as the others.
ADVERSARIAL = {"start_step": 0, "lecam_weight": 5.0}


def with_adversary(values: dict[str, Any]) -> dict[str, Any]:
    values["loss"]["adversarial"] |= ADVERSARIAL
    # Gradients are compared, so none is scaled; and no step is so small that fp16 has nothing to add up.
    values["optimization"] |= {"max_grad_norm": 1e9, "warmup_steps": 0, "num_steps": 1}
    return values


def in_two_batches(values: dict[str, Any]) -> dict[str, Any]:
    """The recipe whose step adds up two batches of half the size."""
    size = values["optimization"]["batch_size"] // 2
    halves = {"batch_size": size, "gradient_accumulation_steps": 2}
    return values | {"optimization": values["optimization"] | halves, "output_dir": values["output_dir"] + "_halves"}


def gradients_of(loop: Any) -> dict[str, list[torch.Tensor]]:
    """What each optimiser is given in the first step of a run."""
    seen: dict[str, list[torch.Tensor]] = {}
    for name, learner in loop.learners.items():
        optimizer = getattr(learner.optimizer, "optimizer", learner.optimizer)

        def look(optimizer: Any, *_: Any, name: str = name) -> None:
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            seen.setdefault(name, [each.grad.clone() for each in parameters if each.grad is not None])

        optimizer.register_step_pre_hook(look)
    loop.run()
    return seen


def assert_same_gradients(
    seen: dict[str, list[torch.Tensor]], wanted: dict[str, list[torch.Tensor]], tolerance: float
) -> None:
    """Parameter by parameter; the gradient of a key's bias is rounding, since the softmax is blind to it."""
    assert seen.keys() == wanted.keys()
    for name in wanted:
        rounding = 1e-6 * torch.stack([gradient.norm() for gradient in wanted[name]]).norm()
        for ours, theirs in zip(seen[name], wanted[name], strict=True):
            assert (ours - theirs).norm() < tolerance * theirs.norm() + rounding, (name, ours.shape)


def test_fp16_gives_both_optimisers_the_gradients_of_float32_over_several_batches(values_of):
    values = in_two_batches(with_adversary(values_of("gan")))
    wanted = gradients_of(loop_of(values))
    values["output_dir"] += "_fp16"
    rounded = gradients_of(loop_with_scaler(values, scale=2.0**10))
    for name in ("model", "discriminator"):
        ours, theirs = (torch.cat([each.flatten() for each in all_of[name]]) for all_of in (rounded, wanted))
        assert (ours - theirs).norm() < 0.02 * theirs.norm(), name


@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_gradients_reach_both_optimisers_no_longer_than_the_largest_norm(scale, values_of):
    values = in_two_batches(with_adversary(values_of("gan")))
    values["optimization"]["max_grad_norm"] = 0.01
    values["intervals"]["log_every"] = 1
    clipped = gradients_of(loop_of(values) if scale is None else loop_with_scaler(values, scale))
    for name, logged in (("model", "grad_norm"), ("discriminator", "discriminator/grad_norm")):
        norm = torch.stack([gradient.norm() for gradient in clipped[name]]).norm()
        assert norm.item() == pytest.approx(0.01, rel=1e-3)
        assert series(values, logged)[0] > 0.02, "the log has the norm before that"


def test_two_optimisers_share_one_update_of_the_scale(values_of):
    values = with_adversary(values_of("gan"))
    values["optimization"]["num_steps"] = 6
    loop = loop_with_scaler(values, scale=4.0, growth_interval=3)
    loop.run()
    assert loop.accelerator.scaler.get_scale() == 4.0 * 2 * 2


def test_an_overflow_of_one_optimiser_leaves_out_its_step_alone(values_of):
    values = with_adversary(values_of("gan"))
    values["optimization"]["num_steps"] = 2
    loop = loop_with_scaler(values, scale=1024.0)
    weight = loop.task.discriminator.conv_logits.weight
    weight.register_hook(lambda gradient: gradient * (float("inf") if loop.step == 0 else 1))
    before = weight.detach().clone()
    weights = []
    loop.task.after_step = lambda: weights.append(weight.detach().clone())
    loop.run()
    assert torch.equal(weights[0], before) and not torch.equal(weights[1], before)
    assert [learner.schedule.last_epoch for learner in loop.learners.values()] == [2, 1]
    assert loop.accelerator.scaler.get_scale() == 512.0


@pytest.mark.parametrize("kind", ["gan", "kl", "generator"])
def test_batches_that_are_added_up_give_the_gradients_of_one_large_batch(kind, values_of):
    """The masked-token loss with its normaliser, LeCam, the noise of KL models, dropped labels; not dropout."""
    values = values_of(kind)
    if kind == "gan":
        with_adversary(values)
    if kind == "generator":
        values["model"]["dropout"] = 0.0
    values["optimization"] |= {"max_grad_norm": 1e9, "num_steps": 1}
    wanted = gradients_of(loop_of(values))
    assert_same_gradients(gradients_of(loop_of(in_two_batches(values))), wanted, tolerance=1e-4)


def test_codebook_and_averages_move_with_all_batches_of_a_step(values_of):
    values = with_adversary(values_of("gan"))
    states = []
    for recipe in (values, in_two_batches(values)):
        loop = loop_of(recipe)
        codebook = loop.task.model.quantizer.codebook.weight
        for learner in loop.learners.values():  # so that nothing else moves the codebook
            learner.schedule.base_lrs = [0.0, 0.0]
            for group in learner.optimizer.param_groups:
                group["lr"] = 0.0
        before = codebook.detach().clone()
        loop.run()
        assert not torch.equal(codebook, before)
        states.append([codebook.detach(), loop.task.reinitializer.usage, loop.task.lecam.averages])
    for whole, halves in zip(*states, strict=True):
        torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-6)


def test_the_count_of_a_resumed_run_does_not_shift_the_batches_of_a_step(values_of):
    """Three steps of one batch, then steps of two: accelerate's own count would be odd."""
    values = values_of("kl")
    values["optimization"]["num_steps"] = 3
    trained(values)
    values["optimization"] |= {"batch_size": 2, "gradient_accumulation_steps": 2}
    loop = loop_of(values, optimization={"num_steps": 4})
    passes = []
    loop.task.model.register_forward_hook(lambda module, *_: passes.append(module.training))
    rescaled = []
    optimizer = loop.learners["model"].optimizer.optimizer
    optimizer.register_step_pre_hook(lambda *_: rescaled.append(passes.count(True)))
    loop.run()
    assert rescaled == [2]


@pytest.mark.parametrize("kind", ["gan", "generator"])
def test_a_state_that_is_saved_when_a_step_fails_is_the_one_before_it(kind, values_of, tmp_path):
    """Of models, optimisers, averages, schedules and random numbers, whichever module's step fails, dropout or not."""
    values = in_two_batches(values_of(kind))
    if kind == "generator":
        values["model"]["dropout"] = 0.5
    values["intervals"] |= {"checkpoint_every": 4, "evaluate_every": 8}
    whole = trained(values | {"output_dir": str(tmp_path / "whole")})
    loop = loop_of(values)
    module = loop.task.model if loop.task.discriminator is None else loop.task.discriminator
    parameter = next(parameter for parameter in module.parameters() if parameter.requires_grad)
    parameter.register_hook(lambda gradient: gradient * (float("nan") if loop.step == 5 else 1))
    with pytest.raises(FloatingPointError, match="gradients' norm is nan at step 6. The state before .*step_00000005"):
        loop.run()
    assert equal(trained(values), whole)


def test_a_failed_step_does_not_write_over_the_checkpoint_of_the_same_step(values_of):
    values = values_of("gan")
    values["intervals"] |= {"checkpoint_every": 5}
    loop = loop_of(values)
    parameter = next(loop.task.discriminator.parameters())
    parameter.register_hook(lambda gradient: gradient * (float("nan") if loop.step == 5 else 1))
    with pytest.raises(FloatingPointError, match="The discriminator's gradients"):
        loop.run()
    checkpoint = loop.folder.checkpoints / "step_00000005"
    first = {file.name: file.stat().st_mtime_ns for file in checkpoint.iterdir()}
    states = [torch.load(file, weights_only=False) for file in sorted(checkpoint.glob("optimizer*.bin"))]
    again = loop_of(values)
    parameter = next(again.task.discriminator.parameters())
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="step_00000005"):
        again.run()
    assert {file.name: file.stat().st_mtime_ns for file in checkpoint.iterdir()} == first
    after = [torch.load(file, weights_only=False) for file in sorted(checkpoint.glob("optimizer*.bin"))]
    assert same_state(states, after)


def test_weights_that_are_not_finite_are_not_saved(tokenizer_values):
    loop = loop_of(tokenizer_values)

    def spoil() -> None:
        if loop.step == 5:  # where nothing else looks at them
            next(loop.task.model.parameters()).data.fill_(float("nan"))

    loop.task.after_step = spoil
    with pytest.raises(
        FloatingPointError, match="loss is nan at step 6. The weights were not finite before it either"
    ):
        loop.run()
    checkpoints = Path(tokenizer_values["output_dir"]) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000003"]
