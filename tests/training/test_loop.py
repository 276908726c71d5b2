"""titok_hf.training.loop: exact resumption, what a run leaves behind, the guard, averaged weights, precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from titok_hf import TiTokModel
from titok_hf.training.loop import TrainingLoop, _enable_gradient_checkpointing, examples_per_step
from titok_hf.training.recipes import RecipeError
from training_runs import (
    cut_off,
    entries_of,
    equal,
    loop_of,
    loop_with_scaler,
    same_state,
    series,
    trained,
    weights_in,
)


def measured(values: dict[str, Any]) -> list[dict[str, float]]:
    """The entries of a run, without what the clock says."""
    left_out = ("images_per_second",)
    return [{name: value for name, value in entry.items() if name not in left_out} for entry in entries_of(values)]


def last_state(output_dir: str) -> dict[str, Any]:
    """Everything that the last checkpoint holds besides the generators of random numbers that no step draws from."""
    folder = max((Path(output_dir) / "checkpoints").iterdir())
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".pt", ".pkl", ".bin")]
    states = {file.name: torch.load(file, weights_only=False) for file in files if "random" not in file.name}
    assert {"ema.pt", "optimizer.bin", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl"} <= states.keys()
    return states


def poison(loop: TrainingLoop, at_step: int, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Spoils the model's loss of one step."""
    model_losses = loop.task.model_losses

    def spoiled(model: Any, batch: Any, rng: Any, step: int) -> Any:
        losses = model_losses(model, batch, rng, step)
        if step + 1 == at_step:
            losses.scalars["loss"] = spoil(losses.scalars["loss"])
        return losses

    loop.task.model_losses = spoiled


@pytest.mark.parametrize(
    "kind",
    [
        *("kl", "gan", "stage1", "stage2", "generator"),
        # The loop has seen all that is in these.
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tokenizer", "vqgan")),
    ],
)
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(kind, values_of, tmp_path):
    values = values_of(kind)
    whole = trained(values)
    again = values | {"output_dir": str(tmp_path / "cut")}
    loop = cut_off(again, after_step=5)
    assert [path.name for path in loop.folder.checkpoints.iterdir()] == ["step_00000003"]
    with loop.folder.metrics_file.open("a") as file:
        file.write('{"step": 5, "lo')  # where a kill may leave it
    assert equal(trained(again), whole)
    assert measured(again) == measured(values)
    assert same_state(last_state(again["output_dir"]), last_state(values["output_dir"]))


def test_a_finished_run_is_left_as_it_is(tokenizer_values):
    first = trained(tokenizer_values)
    before = entries_of(tokenizer_values)
    assert equal(trained(tokenizer_values), first)
    assert entries_of(tokenizer_values) == before


def test_a_finished_run_goes_on_to_a_later_end(tokenizer_values):
    trained(tokenizer_values)
    trained(tokenizer_values, optimization={"num_steps": 10})
    assert [entry["step"] for entry in entries_of(tokenizer_values) if "loss" in entry] == [2, 4, 6, 8, 10]


def test_a_resumed_run_keeps_its_global_batch(tokenizer_values):
    trained(tokenizer_values, optimization={"num_steps": 2})
    with pytest.raises(RecipeError, match="global batch of 4 examples, and now it would be 2"):
        trained(tokenizer_values, optimization={"num_steps": 4, "batch_size": 2})
    shared_out = {"num_steps": 4, "batch_size": 2, "gradient_accumulation_steps": 2}
    trained(tokenizer_values, optimization=shared_out)
    assert [entry["step"] for entry in entries_of(tokenizer_values) if "loss" in entry] == [2, 4]


def test_what_a_run_leaves_behind(tokenizer_values):
    tokenizer_values["intervals"]["trackers"] = ["tensorboard"]
    trained(tokenizer_values)
    folder = Path(tokenizer_values["output_dir"])
    names = {"best_model", "checkpoints", "images", "logs", "metrics.jsonl", "model", "recipe.yaml"}
    assert {path.name for path in folder.iterdir()} == names
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["step_00000004.png", "step_00000008.png"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000006", "step_00000008"]
    assert TiTokModel.from_pretrained(folder / "model").config.image_size == 32

    entries = entries_of(tokenizer_values)
    assert [entry["step"] for entry in entries] == [2, 4, 4, 6, 8, 8]
    logged = {"step", "loss", "reconstruction_loss", "quantizer_loss", "grad_norm", "learning_rate"}
    assert entries[0].keys() == logged | {"images_per_second", "codes_used", "codebook_perplexity"}
    assert {"step", "test/psnr", "test/ssim", "test/codes_used"} <= entries[2].keys()

    events = EventAccumulator(str(next((folder / "logs").rglob("events.*")).parent)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(entry["step"], pytest.approx(entry["loss"])) for entry in entries if "loss" in entry]
    assert losses == expected
    assert [event.step for event in events.Images("test")] == [4, 8]
    assert events.Images("test")[0].width == Image.open(folder / "images" / "step_00000004.png").width


def test_an_early_average_is_kept_on_request(tokenizer_values):
    tokenizer_values["intervals"]["early_model_step"] = 3
    trained(tokenizer_values)
    folder = tokenizer_values["output_dir"]
    early, last = weights_in(folder, "early_model"), weights_in(folder)
    assert not equal(early, last)
    # The run saves what it averaged at that step, and goes on as if it had not.
    del tokenizer_values["intervals"]["early_model_step"]
    tokenizer_values["output_dir"] = f"{folder}-plain"
    trained(tokenizer_values)
    assert equal(weights_in(tokenizer_values["output_dir"]), last)
    assert not Path(tokenizer_values["output_dir"], "early_model").exists()


def test_an_early_average_after_the_last_step_is_refused(tokenizer_values):
    tokenizer_values["intervals"]["early_model_step"] = 900
    with pytest.raises(RecipeError, match="early_model_step is 900, but the run ends after step 8"):
        trained(tokenizer_values)


def test_the_recipe_s_seed_decides_the_model(tokenizer_values, tmp_path):
    first = trained(tokenizer_values)
    torch.manual_seed(1234)  # what the process did before does not matter
    assert equal(trained(tokenizer_values, output_dir=str(tmp_path / "again")), first)
    assert not equal(trained(tokenizer_values, seed=1, output_dir=str(tmp_path / "other")), first)


def test_a_folder_of_another_run_is_refused_and_kept(tokenizer_values):
    first = trained(tokenizer_values)
    with pytest.raises(RecipeError, match="holds a run with another recipe"):
        trained(tokenizer_values, seed=1)
    assert equal(weights_in(tokenizer_values["output_dir"]), first)


def test_a_folder_of_something_else_is_refused(tokenizer_values):
    folder = Path(tokenizer_values["output_dir"])
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(RecipeError, match="not empty and holds no run"):
        trained(tokenizer_values)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("kind", ["kl", "generator"])
def test_evaluation_changes_nothing(kind, values_of, tmp_path):
    """Neither weights nor random numbers: a run that evaluates after each step ends like one that hardly does."""
    values = values_of(kind)
    whole = trained(values, optimization={"num_steps": 4})
    often = {"evaluate_every": 1, "checkpoint_every": 1, "log_every": 1}
    again = trained(values, optimization={"num_steps": 4}, intervals=often, output_dir=str(tmp_path / "often"))
    assert equal(again, whole)


def test_gradient_accumulation_equals_the_larger_batch(tokenizer_values, tmp_path):
    tokenizer_values["loss"] = {"reinitialize_codes": False}  # test_step.py has it; here it would make a tie visible
    whole = trained(tokenizer_values)
    halves = {"batch_size": 2, "gradient_accumulation_steps": 2}
    accumulated = trained(tokenizer_values, output_dir=str(tmp_path / "halves"), optimization=halves)
    for name in whole:
        assert torch.allclose(whole[name], accumulated[name], atol=2e-4), name


def test_the_global_batch_counts_accumulation(tokenizer_values):
    tokenizer_values["optimization"] |= {"gradient_accumulation_steps": 3}
    loop = loop_of(tokenizer_values)
    assert examples_per_step(loop.recipe.optimization, loop.accelerator) == 12


def test_learning_rate_warms_up_and_falls_along_a_half_cosine(tokenizer_values):
    changes = {"num_steps": 12, "end_learning_rate": 1e-3, "gradient_accumulation_steps": 2}
    trained(tokenizer_values, optimization=changes, intervals={"log_every": 1})
    rates = series(tokenizer_values, "learning_rate")
    assert rates[:2] == pytest.approx([5e-3, 1e-2])
    assert rates[6] == pytest.approx((1e-2 + 1e-3) / 2)
    assert rates[11] == pytest.approx(1e-3)


def test_the_model_that_is_saved_is_the_average_of_all_steps(tokenizer_values):
    # Reached at the fourth step: (1 + n) / (10 + n) is what the decay grows as.
    loop = loop_of(tokenizer_values, optimization={"ema_decay": 0.25})
    average = {name: value.clone() for name, value in loop.task.model.state_dict().items()}
    finish_step = loop.task.after_step

    def finish_and_average() -> None:
        finish_step()
        # The decay grows as (1 + n) / (10 + n) up to its value; after the first step the average is the weights.
        decay = min(0.25, loop.step / (9 + loop.step)) if loop.step > 1 else 0.0
        for name, value in loop.task.model.state_dict().items():
            average[name].lerp_(value, 1 - decay)

    loop.task.after_step = finish_and_average
    loop.run()
    saved = weights_in(tokenizer_values["output_dir"])
    last = loop.task.model.state_dict()
    for name in saved:
        assert torch.allclose(saved[name], average[name], atol=1e-6), name
    assert not equal(saved, {name: last[name] for name in saved})


@pytest.mark.parametrize("more_is_better", [True, False])
def test_the_best_model_is_the_best_by_the_measure(more_is_better, tokenizer_values):
    loop = loop_of(tokenizer_values, intervals={"evaluate_every": 1})
    loop.task.best = ("psnr", more_is_better)
    loop.progress.best = float("-inf" if more_is_better else "inf")
    script = iter([3.0, 1.0, 2.0, 5.0, 4.0, 5.0, 1.0, 2.0])
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []

    def evaluate() -> tuple[dict[str, float], Image.Image]:
        weights = {name: value.clone() for name, value in loop.task.model.state_dict().items()}
        seen.append((next(script), weights))
        return {"psnr": seen[-1][0]}, Image.new("RGB", (1, 1))

    loop.task.evaluate = evaluate
    loop.run()
    best = seen[3] if more_is_better else seen[1]  # the first of two equal ones
    assert loop.progress.best == best[0]
    saved = weights_in(tokenizer_values["output_dir"], "best_model")
    assert all(torch.equal(saved[name], best[1][name]) for name in saved)


def test_a_measure_that_is_not_a_number_is_never_the_best(tokenizer_values):
    loop = loop_of(tokenizer_values, intervals={"evaluate_every": 1}, optimization={"num_steps": 3})
    loop.task.best, loop.progress.best = ("distance", False), float("inf")
    script = iter([3.0, float("nan"), 4.0])
    loop.task.evaluate = lambda: ({"distance": next(script)}, Image.new("RGB", (1, 1)))
    loop.run()
    assert loop.progress.best == 3.0


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda loss: loss * float("nan"), "loss is nan"),
        (lambda loss: loss * float("inf"), "loss is inf"),
        (lambda loss: loss + (loss * 0).sqrt(), "gradients' norm is nan"),  # whose derivative is 0 / 0
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(spoil, what, tokenizer_values, tmp_path):
    whole = trained(tokenizer_values, output_dir=str(tmp_path / "whole"))
    loop = loop_of(tokenizer_values)
    poison(loop, at_step=6, spoil=spoil)
    with pytest.raises(FloatingPointError, match=f"The model's {what} at step 6. .*step_00000005"):
        loop.run()
    assert all(value.isfinite().all() for value in loop.task.model.state_dict().values())
    # The state is the one before the step: without the poison, the run goes on as if nothing had happened.
    assert equal(trained(tokenizer_values), whole)


def test_a_discriminator_that_is_not_finite_leaves_a_state_to_go_on_from(values_of):
    values = values_of("gan")
    loop = loop_of(values)
    # Its own pass sees real and fake images together; the model's term sees the 4 fake ones alone.
    loop.task.discriminator.register_forward_hook(
        lambda module, inputs, logits: logits * float("nan") if loop.step == 5 and len(logits) == 8 else logits
    )
    with pytest.raises(FloatingPointError, match="The discriminator's loss is nan at step 6"):
        loop.run()
    assert all(value.isfinite().all() for value in trained(values).values())
    assert all(torch.tensor(series(values, "discriminator/loss")).isfinite())


def test_memory_that_runs_out_is_said_with_the_way_out(tokenizer_values):
    loop = loop_of(tokenizer_values)

    def run_out(loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    poison(loop, at_step=2, spoil=run_out)
    with pytest.raises(MemoryError, match="batch of 4 does not fit .*gradient_checkpointing=true"):
        loop.run()


def test_other_errors_stay_what_they_are(tokenizer_values):
    loop = loop_of(tokenizer_values)

    def fail(loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("something else")

    poison(loop, at_step=1, spoil=fail)
    with pytest.raises(RuntimeError, match="something else"):
        loop.run()


def test_gradient_checkpointing_has_another_name_in_older_transformers():
    """transformers 5.20, the last one for Python 3.10."""
    calls = []

    class Older(torch.nn.Module):
        def gradient_checkpointing_enable(self):
            calls.append(self)

    _enable_gradient_checkpointing(Older())
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["tokenizer", "stage2", "vqgan", "generator"])
def test_gradient_checkpointing_changes_memory_alone(kind, values_of, tmp_path):
    values = values_of(kind)
    values["optimization"]["num_steps"] = 4
    whole = trained(values)
    loop = loop_of(values, output_dir=str(tmp_path / "saving"), optimization={"gradient_checkpointing": True})
    layer = {"tokenizer": "decoder.layers.0.norm1", "stage2": "pixel_decoder.decoder.mid_blocks.0.conv1"}.get(kind)
    layer = {"vqgan": "encoder.mid_blocks.0.conv1", "generator": "backbone.layers.0.attention"}.get(kind, layer)
    calls: list[int] = []
    loop.task.model.get_submodule(layer).register_forward_hook(lambda *_: calls.append(loop.step))
    loop.run()
    assert calls.count(1) == 2  # once to know the loss, once again for the gradients
    assert equal(weights_in(tmp_path / "saving"), whole)


@pytest.mark.parametrize("kind", ["gan", "generator"])
def test_bfloat16_learns_nearly_the_same_on_a_cpu(kind, values_of, tmp_path):
    values = values_of(kind)
    values["intervals"]["log_every"] = 1
    trained(values)
    changes = {"output_dir": str(tmp_path / "bf16"), "optimization": {"mixed_precision": "bf16"}}
    assert all(weight.dtype == torch.float32 for weight in trained(values, **changes).values())
    exact, rounded = series(values, "loss"), series(values | changes, "loss")
    assert rounded != exact and len(rounded) == len(exact) > 1
    # The tokenizer only in the step from equal weights: a token between two codes takes the other one in bfloat16, and
    # which token that is depends on the processor's kernels. From there the runs part.
    num_comparable = 1 if kind == "gan" else len(exact)
    assert rounded[:num_comparable] == pytest.approx(exact[:num_comparable], rel=0.05)


@pytest.mark.parametrize("kind", ["tokenizer", "gan"])
def test_fp16_leaves_out_steps_whose_gradients_overflow_until_its_scale_fits(kind, values_of):
    values = values_of(kind)
    values["intervals"] |= {"log_every": 1, "evaluate_every": 14, "checkpoint_every": 14}
    values["optimization"] |= {"warmup_steps": 0, "num_steps": 14}
    loop = loop_with_scaler(values, scale=2.0**28)
    first = {name: value.clone() for name, value in loop.task.model.named_parameters()}
    loop.task.reinitializer = None
    moved = []
    finish_step = loop.task.after_step

    def look() -> None:
        finish_step()
        moved.append(any(not torch.equal(value, first[name]) for name, value in loop.task.model.named_parameters()))

    loop.task.after_step = look
    loop.run()
    num_skipped = moved.index(True)
    assert 1 <= num_skipped < 14
    assert all(value.isfinite().all() for value in loop.task.model.state_dict().values())
    # The learning rate waits for steps that are taken.
    assert loop.learners["model"].schedule.last_epoch == 14 - num_skipped
    state = torch.load(max(loop.folder.checkpoints.iterdir()) / "scaler.pt", weights_only=False)
    assert state["scale"] == loop.accelerator.scaler.get_scale() < 2.0**28


def test_fp16_stops_once_no_scale_helps(tokenizer_values):
    loop = loop_with_scaler(tokenizer_values, scale=2.0)
    for step in range(1, 9):
        poison(loop, at_step=step, spoil=lambda loss: loss + (loss * 0).sqrt())
    # At scales 2 and 1 the step is left out; at 1/2 nothing is left to try.
    with pytest.raises(FloatingPointError, match="gradients' norm is nan at step 3.*bf16"):
        loop.run()
    assert all(value.isfinite().all() for value in loop.task.model.state_dict().values())


def test_fp16_stops_at_once_where_the_loss_itself_is_not_finite(tokenizer_values):
    loop = loop_with_scaler(tokenizer_values, scale=2.0**10)
    poison(loop, at_step=2, spoil=lambda loss: loss * float("inf"))
    with pytest.raises(FloatingPointError, match="loss is inf at step 2"):
        loop.run()


@pytest.mark.slow
def test_a_compiled_model_trains_and_is_saved_under_its_own_names(tokenizer_values, tmp_path):
    tokenizer_values["intervals"]["log_every"] = 1
    plain = trained(tokenizer_values, optimization={"num_steps": 2})
    values = tokenizer_values | {"output_dir": str(tmp_path / "compiled")}
    compiled = trained(values, optimization={"num_steps": 2, "compile": True})
    assert compiled.keys() == plain.keys()
    # The step from equal weights alone: AdamW's first update follows the signs of gradients, even of those that are
    # rounding errors, and the codes of the next step follow the weights.
    assert series(values, "loss")[0] == pytest.approx(series(tokenizer_values, "loss")[0], rel=1e-5)
    assert series(values, "grad_norm")[0] == pytest.approx(series(tokenizer_values, "grad_norm")[0], rel=1e-3)
    TiTokModel.from_pretrained(tmp_path / "compiled" / "model")
