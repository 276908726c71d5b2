"""A run that one process began goes on with two, as long as the global batch stays what it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import double_precision
from double_precision import TIE, in_float64, recorded_gaps
from titok_hf.training.recipes import recipe_to_yaml
from training_runs import recipe_of, trained, weights_in


def losses(folder: str | Path) -> dict[int, float]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(tokenizer_values, tmp_path):
    values = tokenizer_values | {"cadence": {"log_every": 1, "evaluate_every": 4, "checkpoint_every": 4}}
    values["cadence"] |= {"num_test_images": 20, "trackers": []}
    optimization = values["optimization"] | {"learning_rate": 1e-3, "end_learning_rate": 1e-3}
    run = str(tmp_path / "run")
    with in_float64(), recorded_gaps() as gaps:
        whole = trained(values, output_dir=str(tmp_path / "whole"), optimization=optimization)
        # The half of it: a constant learning rate does not depend on the length.
        trained(values, output_dir=run, optimization=optimization | {"num_steps": 4})
    assert min(gaps) > TIE  # else rounding would decide between two codes
    rest = recipe_of(values, output_dir=run, optimization=optimization | {"batch_size": 2})
    recipe_file = tmp_path / "rest.yaml"
    recipe_file.write_text(recipe_to_yaml(rest))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + [double_precision.__file__, str(recipe_file)],
        check=True,
        env=os.environ
        | {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        timeout=300,
    )
    wanted, seen = losses(tmp_path / "whole"), losses(run)
    assert list(seen) == list(range(1, 9))
    assert seen == pytest.approx(wanted, rel=1e-9)
    weights = weights_in(run)
    assert all(torch.allclose(whole[name], weights[name], rtol=1e-7, atol=1e-7) for name in whole)
    assert yaml.safe_load((Path(run) / "recipe.yaml").read_text())["optimization"]["batch_size"] == 2
