"""The loop: exact resumption, schedule, averaged weights, decay groups, refusal of foreign folders, processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tiny_pipeline import tiny_tokenizer
from titok_hf import TiTokModel
from titok_hf.training.configs import TokenizerRecipe
from titok_hf.training.loop import ShuffledStream, TrainingLoop, make_accelerator, parameter_groups
from titok_hf.training.recipes import RecipeError, build_recipe
from titok_hf.training.tokenizer import TokenizerTask, train_tokenizer


def train(values: dict, **changes) -> dict[str, torch.Tensor]:
    """Weights of the averaged model after a whole run."""
    folder = train_tokenizer(build_recipe(TokenizerRecipe, values | changes))
    return load_file(folder / "model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tokenizer_values, tmp_path):
    whole = train(tokenizer_values)

    class CutOffAfterStepFive(TokenizerTask):
        steps = 0

        def after_step(self) -> None:
            super().after_step()
            self.steps += 1
            if self.steps == 5:
                raise KeyboardInterrupt

    recipe = build_recipe(TokenizerRecipe, tokenizer_values | {"output_dir": str(tmp_path / "cut")})
    accelerator = make_accelerator(recipe)
    with pytest.raises(KeyboardInterrupt):
        TrainingLoop(CutOffAfterStepFive(recipe, accelerator), recipe, accelerator).run()
    assert [path.name for path in (tmp_path / "cut/checkpoints").iterdir()] == ["step_00000003"]
    assert equal(train(tokenizer_values, output_dir=recipe.output_dir), whole)


def test_a_finished_run_is_left_as_it_is(tokenizer_values):
    first = train(tokenizer_values)
    assert equal(train(tokenizer_values), first)


def test_what_a_run_leaves_behind(tokenizer_values):
    train(tokenizer_values)
    folder = Path(tokenizer_values["output_dir"])
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["step_00000004.png", "step_00000008.png"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000006", "step_00000008"]
    assert list((folder / "logs").rglob("events.*"))
    assert TiTokModel.from_pretrained(folder / "model").config.image_size == 32


def test_the_recipe_s_seed_decides_the_model(tokenizer_values, tmp_path):
    first = train(tokenizer_values)
    torch.manual_seed(1234)  # what the process did before does not matter
    assert equal(train(tokenizer_values, output_dir=str(tmp_path / "again")), first)
    assert not equal(train(tokenizer_values, seed=1, output_dir=str(tmp_path / "other")), first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"loss": {"quantizer_weight": 0.5}}])
def test_a_folder_of_another_run_is_refused_and_kept(change, tokenizer_values):
    first = train(tokenizer_values)
    with pytest.raises(RecipeError, match="holds a run with another recipe"):
        train(tokenizer_values, **change)
    assert equal(load_file(Path(tokenizer_values["output_dir"]) / "model/model.safetensors"), first)


def test_a_folder_of_something_else_is_refused(tokenizer_values):
    folder = Path(tokenizer_values["output_dir"])
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(RecipeError, match="not empty and holds no run"):
        train(tokenizer_values)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_loss_that_is_not_finite_stops_the_run(tokenizer_values):
    tokenizer_values["loss"] = {"reconstruction_weight": float("nan")}
    with pytest.raises(FloatingPointError, match="The loss is nan at step 2"):
        train(tokenizer_values)


def test_learning_rate_warms_up_and_falls_along_a_half_cosine(tokenizer_values):
    tokenizer_values["optimization"] |= {"num_steps": 12, "end_learning_rate": 1e-3}
    recipe = build_recipe(TokenizerRecipe, tokenizer_values)
    accelerator = make_accelerator(recipe)
    loop = TrainingLoop(TokenizerTask(recipe, accelerator), recipe, accelerator)
    rates = []
    for _ in range(13):
        rates.append(loop.schedule.get_last_lr()[0])
        loop.optimizer.step()
        loop.schedule.step()
    assert rates[:3] == pytest.approx([0, 5e-3, 1e-2])
    assert rates[7] == pytest.approx((1e-2 + 1e-3) / 2)
    assert rates[12] == pytest.approx(1e-3)


def test_gradient_accumulation_equals_the_larger_batch(tokenizer_values, tmp_path):
    tokenizer_values["loss"] = {"reinitialize_codes": False}  # which looks at one batch at a time
    whole = train(tokenizer_values)
    halves = tokenizer_values | {"output_dir": str(tmp_path / "halves")}
    halves["optimization"] = tokenizer_values["optimization"] | {"batch_size": 2, "gradient_accumulation_steps": 2}
    accumulated = train(halves)
    assert all(torch.allclose(whole[name], accumulated[name], atol=2e-4) for name in whole)


def test_a_stream_is_a_permutation_an_epoch_wherever_it_starts():
    whole = list(ShuffledStream(10, seed=3, start=0, stop=35))
    for epoch in range(3):
        assert sorted(whole[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert whole[:10] != whole[10:20]
    for start in (0, 7, 10, 23):
        stream = ShuffledStream(10, seed=3, start=start, stop=35)
        assert list(stream) == whole[start:]
        assert len(stream) == 35 - start


def test_vectors_and_embedding_like_parameters_are_not_decayed():
    model = tiny_tokenizer()
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, kept = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert {names[parameter] for parameter in decayed["params"]} == {
        "encoder.output_projection.weight",
        "decoder.head.projection.weight",
        "decoder.head.convolution.weight",
        *(
            f"{side}.layers.0.{part}.weight"
            for side in ("encoder", "decoder")
            for part in ("attention.qkv_proj", "attention.out_proj", "mlp.fc1", "mlp.fc2")
        ),
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def start(recipe: Path, num_processes: int = 1) -> subprocess.Popen:
    """The trainer's command as a process of its own, or as several that talk through gloo."""
    launcher = ["torch.distributed.run", f"--nproc_per_node={num_processes}", "-m"] if num_processes > 1 else []
    command = [sys.executable, "-m", *launcher, "titok_hf.training", str(recipe)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def write_recipe(values: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_a_process_killed_with_signal_nine_goes_on_bit_for_bit(tokenizer_values, tmp_path):
    tokenizer_values["optimization"]["num_steps"] = 60
    recipe = write_recipe(tokenizer_values, tmp_path / "recipe.yaml")
    process = start(recipe)
    checkpoints = Path(tokenizer_values["output_dir"]) / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step_*")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = start(recipe)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert "resumed from" in output
    killed = load_file(Path(tokenizer_values["output_dir"]) / "model/model.safetensors")
    assert equal(killed, train(tokenizer_values, output_dir=str(tmp_path / "whole")))


@pytest.mark.slow
def test_two_processes_train_the_model_of_one_with_twice_the_batch(tokenizer_values, tmp_path):
    values = tokenizer_values | {"output_dir": str(tmp_path / "two")}
    values["optimization"] = tokenizer_values["optimization"] | {"batch_size": 2}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")
    process = start(recipe, num_processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    two, one = load_file(tmp_path / "two/model/model.safetensors"), train(tokenizer_values)
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
