"""titok_hf.training.trackers: what a run says at its start, and what trackers get."""

import logging
import re
import socket
from collections.abc import Callable, Iterator

import pytest
import torch

from titok_hf.training.configs import SystemConfig
from titok_hf.training.recipes import RecipeError, build_recipe
from titok_hf.training.run_folder import RunFolder
from titok_hf.training.start import make_accelerator
from titok_hf.training.trackers import flat_recipe, remaining, start_trackers
from training_runs import recipe_of, trained


def test_a_run_says_what_it_trains_on_and_when_it_ends(values_of, caplog):
    values = values_of("gan")
    with caplog.at_level(logging.INFO):
        trained(values, optimization={"gradient_accumulation_steps": 2, "num_steps": 4})
    said = caplog.text
    assert "device: cpu, 1 process, mixed precision: no" in said
    assert "global batch: 8 = 4 x 2 accumulated x 1 processes" in said
    assert re.search(r"model: [\d,]+ parameters, [\d,]+ of them trained", said)
    assert re.search(r"discriminator: [\d,]+ parameters", said)
    assert "training images: 20, which is 1.60 epochs" in said
    assert re.search(r"step 2 of 4, 0:00:\d\d left: loss", said)
    assert "step 4 of 4, 0:00:00 left: loss" in said


def test_the_time_that_is_left_is_that_of_the_steps_that_are_left():
    assert remaining(steps_done=10, steps_left=20, seconds=1800) == "1:00:00"
    assert remaining(steps_done=1, steps_left=0, seconds=5) == "0:00:00"


def test_trackers_get_the_recipe_by_full_keys(tokenizer_values):
    flat = flat_recipe(recipe_of(tokenizer_values))
    assert flat["optimization.batch_size"] == 4 and flat["data.image_size"] == 32 and flat["seed"] == 0
    assert flat["optimization.betas"] == "[0.9, 0.99]" and flat["push_to_hub"] is None
    assert all(isinstance(value, int | float | str | None) for value in flat.values())


def test_a_resumed_run_goes_on_in_the_run_that_wandb_knows(tokenizer_values, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = recipe_of(tokenizer_values, intervals={"trackers": ["wandb"]})
    seen = []
    for _ in range(2):
        accelerator = make_accelerator(recipe)
        start_trackers(accelerator, recipe, RunFolder(recipe.output_dir))
        run = accelerator.get_tracker("wandb", unwrap=True)
        seen.append((run.id, run.name, run.config["optimization.batch_size"]))
        assert str(run.dir).startswith(recipe.output_dir)
        accelerator.end_training()
        wandb.teardown()
    assert seen[0] == seen[1]
    assert seen[0][1:] == ("run", 4)


def test_the_recipe_is_in_tensorboard(tokenizer_values):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tokenizer_values, intervals={"trackers": ["tensorboard"]}, optimization={"num_steps": 1})
    folder = RunFolder(tokenizer_values["output_dir"]).path / "logs"
    events = EventAccumulator(str(next(folder.rglob("events.*")).parent)).Reload()
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "kind: tokenizer" in text and "batch_size: 4" in text


@pytest.fixture
def switches() -> Iterator[Callable[[], tuple[bool, bool, bool]]]:
    """What PyTorch's switches are; afterwards they are what they were."""

    def now() -> tuple[bool, bool, bool]:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = now()
    yield now
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


def test_switches_of_the_system_are_set(tokenizer_values, switches):
    make_accelerator(recipe_of(tokenizer_values, system={"allow_tf32": True, "cudnn_benchmark": True}))
    assert switches() == (True, True, True)
    make_accelerator(recipe_of(tokenizer_values, system={"allow_tf32": False}))
    assert switches() == (False, False, False)
    with pytest.raises(RecipeError, match="process_group_timeout is 0; it must be larger than 0"):
        build_recipe(SystemConfig, {"process_group_timeout": 0})


def test_processes_wait_as_long_for_one_another_as_the_recipe_says(tokenizer_values, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in (environment | {"ACCELERATE_USE_CPU": "true"}).items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator(recipe_of(tokenizer_values, system={"process_group_timeout": 77}))
    try:
        backend = torch.distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        assert backend.options._timeout.total_seconds() == 77
    finally:
        accelerator.end_training()
