"""titok_hf.training.processes: signals, trouble in one process of several, and two runs in one folder."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from titok_hf.training.recipes import RecipeError, recipe_to_yaml
from titok_hf.training.run_folder import RunFolder
from training_runs import cut_off, entries_of, equal, loop_of, recipe_of, series, trained

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def test_signals_to_a_run_in_its_own_process():
    """Those of `own_signals.py`, in a process of their own: a signal that a run does not take would end all tests."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("own_signals.py")),
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]


@contextmanager
def started(values: dict[str, Any], num_processes: int, folder: Path) -> Iterator[subprocess.Popen]:
    """A run under torchrun, which has begun to learn; it has ended when the block ends."""
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe_of(values)))
    command = [*TORCHRUN, str(num_processes), "-m", "titok_hf.training", str(folder / "recipe.yaml")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not Path(values["output_dir"], "metrics.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def workers_of(process: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(tokenizer_values, tmp_path):
    values = tokenizer_values | {"optimization": tokenizer_values["optimization"] | {"num_steps": 100_000}}
    values["intervals"] |= {"evaluate_every": 100_000, "checkpoint_every": 100_000}
    with started(values, 2, tmp_path) as process:
        os.kill(workers_of(process)[-1], signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
    assert errors.count("exitcode  : 143") == 2 or errors.count("exitcode: 143") + errors.count("exitcode  : 143") >= 1
    assert "Stopped by SIGTERM after step" in errors
    checkpoint = RunFolder(values["output_dir"]).newest_checkpoint()
    states = {path.name for path in checkpoint.iterdir()}
    assert {"random_states_0.pkl", "random_states_1.pkl", "checksums.json"} <= states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own_folders", "save_on_each_node", "message"),
    [
        (True, True, None),
        (True, False, "process 1 does not see there what process 0 writes.*save_on_each_node=true"),
        (False, True, "the nodes share .*Set it to false"),
    ],
)
def test_two_nodes_save_where_the_recipe_says(own_folders, save_on_each_node, message, tokenizer_values, tmp_path):
    """A node is a launcher of its own; its disk is the folder in which it runs."""
    values = tokenizer_values | {"output_dir": "run", "system": {"save_on_each_node": save_on_each_node}}
    values["intervals"] |= {"evaluate_every": 4}
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe_of(values)))
    nodes = [tmp_path / f"node{rank if own_folders else 0}" for rank in (0, 1)]

    def run(*overrides: str) -> list[tuple[int, str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        processes = []
        for rank, folder in enumerate(nodes):
            folder.mkdir(exist_ok=True)
            place = ["--nnodes", "2", "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", port]
            options = [part for override in overrides for part in ("--set", override)]
            command = [*TORCHRUN[:3], *place, "-m", "titok_hf.training", str(tmp_path / "recipe.yaml"), *options]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=pipe, text=True))
        errors = [process.communicate(timeout=300)[1] for process in processes]
        return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]

    results = run("optimization.num_steps=6")
    if message is not None:
        assert all(code != 0 for code, _ in results)
        assert re.search(message, results[0][1], re.DOTALL)
        assert not list(tmp_path.rglob("step_*"))
        return
    assert [code for code, _ in results] == [0, 0], results
    assert all((node / "run/checkpoints/step_00000006/checksums.json").exists() for node in nodes)
    assert [(node / "run/model").exists() for node in nodes] == [True, False]
    # A checkpoint that is damaged on one node is passed over on both.
    (nodes[1] / "run/checkpoints/step_00000006/ema.pt").write_bytes(b"")
    results = run()
    assert [code for code, _ in results] == [0, 0], results
    assert "step_00000006 is damaged: ema.pt has changed" in results[0][1]
    assert "resumed from run/checkpoints/step_00000003" in results[0][1]


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(tokenizer_values, tmp_path):
    values = tokenizer_values | {"optimization": tokenizer_values["optimization"] | {"num_steps": 100_000}}
    with started(values, 1, tmp_path) as process:
        before = len(entries_of(values))
        with pytest.raises(RecipeError, match="Another run is training in .* at this moment"):
            trained(values)
        os.kill(workers_of(process)[0], signal.SIGTERM)
        process.communicate(timeout=120)
    entries = [json.loads(line) for line in Path(values["output_dir"], "metrics.jsonl").read_text().splitlines()]
    assert len(entries) >= before
    steps = [entry["step"] for entry in entries if "loss" in entry]
    assert steps == sorted(set(steps))
    # The lock went with the run that held it.
    trained(values, optimization={"num_steps": steps[-1] + 1})


def test_two_runs_of_one_process_do_not_share_a_folder(tokenizer_values):
    folder = RunFolder(tokenizer_values["output_dir"])
    with folder.locked():
        with pytest.raises(RecipeError, match="Another run is training"):
            trained(tokenizer_values)
    trained(tokenizer_values)
    assert not (folder.path / ".lock").exists()


def test_a_lock_that_a_kill_left_is_no_obstacle(tokenizer_values):
    folder = Path(tokenizer_values["output_dir"])
    folder.mkdir()
    (folder / ".lock").touch()
    trained(tokenizer_values, optimization={"num_steps": 1})


def test_a_broken_image_is_named_and_the_state_before_it_is_saved(tokenizer_values, picture_folder, tmp_path):
    source = shutil.copytree(picture_folder, tmp_path / "pictures")
    values = tokenizer_values | {"data": tokenizer_values["data"] | {"source": str(source)}}
    whole = trained(values, output_dir=str(tmp_path / "whole"))
    loop = loop_of(values)
    finish_step = loop.task.after_step
    contents = {path: path.read_bytes() for path in (source / "train").rglob("*.png")}

    def finish_and_break() -> None:
        finish_step()
        if loop.step == 5:
            for path, content in contents.items():
                path.write_bytes(content[:60])

    loop.task.after_step = finish_and_break
    with pytest.raises(RecipeError, match="data: Image .*goes on from .*step_00000005") as error:
        loop.run()
    assert any(str(path) in str(error.value) for path in contents)
    for path, content in contents.items():
        path.write_bytes(content)
    assert equal(trained(values), whole)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_skipped_where_the_recipe_says_so(
    num_workers, tokenizer_values, picture_folder, tmp_path, caplog
):
    source = shutil.copytree(picture_folder, tmp_path / "pictures")
    broken = min((source / "train").rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    data = tokenizer_values["data"] | {"source": str(source), "broken_images": "skip", "num_workers": num_workers}
    values = tokenizer_values | {"data": data}
    whole = trained(values, output_dir=str(tmp_path / "whole"))
    assert len(re.findall(f"skipped: Image .*{broken.name}", caplog.text)) == 1  # in two epochs
    counts = series(values | {"output_dir": str(tmp_path / "whole")}, "skipped_images")
    assert counts[-1] == 1
    cut_off(values, after_step=5)
    assert equal(trained(values), whole)
    assert series(values, "skipped_images") == counts


def test_a_broken_test_image_is_left_out_or_named(tokenizer_values, picture_folder, tmp_path):
    source = shutil.copytree(picture_folder, tmp_path / "pictures")
    broken = min((source / "test").rglob("*.png"))
    broken.write_bytes(b"no picture")
    data = tokenizer_values["data"] | {"source": str(source)}
    with pytest.raises(RecipeError, match=f"Image 0 .*{broken.name}.* cannot be used: it is no image"):
        loop_of(tokenizer_values | {"data": data})
    loop = loop_of(tokenizer_values | {"data": data | {"broken_images": "skip"}})
    assert len(loop.task.test_images) == 19
