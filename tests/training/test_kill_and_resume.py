"""A run that is killed with SIGKILL, again and again, ends in the bits of a run that was left alone."""

import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from titok_hf.data.crops import PretokenizeSettings
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.pretokenize import pretokenize
from titok_hf.training.loop import Progress
from titok_hf.training.recipes import RecipeError
from titok_hf.training.run_folder import RunFolder
from training_runs import loop_of, train_command

NUM_STEPS = 10
KINDS = ["vqgan", "stage1", "stage2", "gan", "kl", "generator", "generator_of_codes"]

# Every run is a process of its own. They are forked from a server that has imported the trainer, to save five seconds
# each, and that has computed nothing, so that no lock is held.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [f"titok_hf.training.{name}" for name in ("start", "generator", "stage1", "tokenizer", "report")]
)


@pytest.fixture
def recipe_file(values_of: Callable[[str], dict[str, Any]], picture_folder: Path, tmp_path: Path) -> Any:
    """`recipe_file(kind)`: the path of a recipe that logs and saves after each step."""

    def recipe_file(kind: str) -> Path:
        values = values_of("generator" if kind == "generator_of_codes" else kind)
        values["optimization"]["num_steps"] = NUM_STEPS
        values["intervals"] |= {"log_every": 1, "evaluate_every": 4, "checkpoint_every": 1}
        if values["kind"] == "generator":
            values["model"]["dropout"] = 0.1
        if kind == "generator_of_codes":
            encoder = ImageEncoder(values["tokenizer"])
            pretokenize(picture_folder, tmp_path / "codes", encoder, PretokenizeSettings("flip"), workers=0)
            del values["data"]
            values["codes"] = {"source": str(tmp_path / "codes")}
            values["intervals"]["num_test_images"] = 4
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return recipe_file


def start(recipe: Path, output: Path, *overrides: str) -> BaseProcess:
    """The trainer's command in a process of its own."""
    arguments = [str(recipe), *(part for override in overrides for part in ("--set", override))]
    process = PROCESSES.Process(target=train_command, args=([*arguments, "--set", f"output_dir={output}"],))
    process.start()
    return process


def finish(recipe: Path, output: Path, *overrides: str) -> None:
    process = start(recipe, output, *overrides)
    process.join(timeout=300)
    assert process.exitcode == 0


def kill_when(condition: Callable[[], bool], process: BaseProcess, delay: float = 0.0) -> None:
    """Sends SIGKILL that many seconds after the condition holds."""
    while not condition():
        assert process.is_alive(), f"the run ended before the kill, with {process.exitcode}"
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()


def steps_in(output: Path) -> int:
    """Steps that have been logged."""
    file = output / "metrics.jsonl"
    return max((entry["step"] for entry in RunFolder(output).metrics()), default=0) if file.exists() else 0


def unfinished_in(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if "unfinished" in path.name or "replaced" in path.name]


def entries_in(output: Path) -> list[dict[str, Any]]:
    """What was logged, but for the speed."""
    return [
        {name: value for name, value in entry.items() if name != "images_per_second"}
        for entry in RunFolder(output).metrics()
    ]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal_runs(output: Path, whole: Path) -> None:
    """The same losses; to the bit the same model, optimisers, averages, places and random states."""
    assert entries_in(output) == entries_in(whole)
    last = f"checkpoints/step_{NUM_STEPS:08d}"
    for folder in (last, "model", "best_model"):
        ours, expected = files_in(output / folder), files_in(whole / folder)
        ours.pop("README.md", None), expected.pop("README.md", None)  # it names the folder
        assert ours.keys() == expected.keys()
        assert not [name for name in ours if ours[name] != expected[name]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_bit_for_bit(kind, recipe_file, tmp_path):
    recipe, whole, output = recipe_file(kind), tmp_path / "whole", tmp_path / "killed"
    finish(recipe, whole)
    kill_when(lambda: steps_in(output) >= 2, start(recipe, output), delay=random.uniform(0, 0.05))
    checkpoint, model = output / "checkpoints/unfinished", output / "model"
    kill_when(lambda: steps_in(output) >= 4 and checkpoint.exists(), start(recipe, output))
    kill_when(lambda: steps_in(output) >= 6 and any(model.glob(".unfinished-*")), start(recipe, output))
    assert steps_in(output) < NUM_STEPS
    finish(recipe, output)
    assert_equal_runs(output, whole)
    assert unfinished_in(output) == []


def children_of(process: int) -> set[int]:
    """Processes that this one started, and those that they started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:  # it has just ended
            continue
        parents[int(status.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {process}} - found:
        found |= new
    return found


@pytest.mark.slow
def test_a_kill_leaves_no_worker_behind_and_changes_no_picture(recipe_file, tmp_path):
    recipe, whole, output = recipe_file("gan"), tmp_path / "whole", tmp_path / "killed"
    finish(recipe, whole)
    process = start(recipe, output, "data.num_workers=2")
    workers: set[int] = set()

    def has_learnt_with_workers() -> bool:
        workers.update(children_of(process.pid))
        return steps_in(output) >= 3

    kill_when(has_learnt_with_workers, process)
    assert len(workers) >= 2
    deadline = time.monotonic() + 30
    while remaining := {worker for worker in workers if Path(f"/proc/{worker}").exists()}:
        assert time.monotonic() < deadline, f"{remaining} outlive their run"
        time.sleep(0.05)
    finish(recipe, output, "data.num_workers=2")
    assert_equal_runs(output, whole)


def test_a_resumed_run_keeps_its_global_batch(values_of):
    """More processes with the same recipe would be another run."""
    loader = loop_of(values_of("kl")).task.loader
    saved = Progress(loader, 4, ("psnr", True)).state_dict()
    with pytest.raises(RecipeError, match="global batch of 4 examples, and now it would be 8. Keep the product"):
        Progress(loader, 8, ("psnr", True)).load_state_dict(saved)
