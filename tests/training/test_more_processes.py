"""Two processes go on where one stopped, as long as the global batch stays what it was, and where two stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Image

import double_precision
from double_precision import TIE, in_float64, recorded_gaps
from titok_hf.data.training_data import open_images
from titok_hf.training.recipes import recipe_to_yaml
from training_runs import equal, recipe_of, series, trained, weights_in


def losses(folder: str | Path) -> dict[int, float]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


def in_two_processes(script: str, *arguments: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join(folder for folder in sys.path if folder)
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    subprocess.run([*launcher, script, *arguments], check=True, env=os.environ | environment, timeout=300)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(tokenizer_values, tmp_path):
    values = tokenizer_values | {"intervals": {"log_every": 1, "evaluate_every": 4, "checkpoint_every": 4}}
    values["intervals"] |= {"num_test_images": 20, "trackers": []}
    values["loss"] = {"reinitialize_codes": False}  # which makes unused entries equal, between which rounding decides
    optimization = values["optimization"] | {"learning_rate": 1e-3, "end_learning_rate": 1e-3}
    run = str(tmp_path / "run")
    with in_float64(), recorded_gaps() as gaps:
        whole = trained(values, output_dir=str(tmp_path / "whole"), optimization=optimization)
        # The half of it: a constant learning rate does not depend on the length.
        trained(values, output_dir=run, optimization=optimization | {"num_steps": 4})
    assert min(gaps) > TIE
    rest = recipe_of(values, output_dir=run, optimization=optimization | {"batch_size": 2})
    recipe_file = tmp_path / "rest.yaml"
    recipe_file.write_text(recipe_to_yaml(rest))
    in_two_processes(double_precision.__file__, str(recipe_file))
    wanted, seen = losses(tmp_path / "whole"), losses(run)
    assert list(seen) == list(range(1, 9))
    assert seen == pytest.approx(wanted, rel=1e-9)
    weights = weights_in(run)
    assert all(torch.allclose(whole[name], weights[name], rtol=1e-7, atol=1e-7) for name in whole)
    assert yaml.safe_load((Path(run) / "recipe.yaml").read_text())["optimization"]["batch_size"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gan", "generator"])
def test_two_processes_that_add_up_two_batches_equal_one_large_batch(kind, values_of, tmp_path):
    """Each step of which looks at four shares: the normaliser of masked tokens, LeCam, the upkeep of a codebook."""
    values = values_of(kind)
    if kind == "generator":
        values["model"]["dropout"] = 0.0  # whose numbers are each process's own
    else:
        values["loss"]["adversarial"] |= {"start_step": 1, "lecam_weight": 1.0}
    values["optimization"] |= {"num_steps": 4, "learning_rate": 1e-3, "warmup_steps": 0}
    values["intervals"] |= {"log_every": 1}
    with in_float64(), recorded_gaps() as gaps:
        whole = trained(values, output_dir=str(tmp_path / "whole"))
    assert min(gaps, default=1.0) > TIE
    shares = {"batch_size": 1, "gradient_accumulation_steps": 2}
    recipe_file = tmp_path / "shares.yaml"
    recipe_file.write_text(recipe_to_yaml(recipe_of(values, output_dir=str(tmp_path / "run"), optimization=shares)))
    in_two_processes(double_precision.__file__, str(recipe_file))
    for name in ("loss", "grad_norm", *(("discriminator/loss", "discriminator/grad_norm") if kind == "gan" else ())):
        wanted = series({"output_dir": str(tmp_path / "whole")}, name)
        assert wanted and series({"output_dir": str(tmp_path / "run")}, name) == pytest.approx(wanted, rel=1e-7), name
    weights = weights_in(tmp_path / "run")
    assert all(torch.allclose(whole[name], weights[name], rtol=1e-6, atol=1e-6) for name in whole)


RESUMED_STREAM = """
import sys
import datasets, torch, yaml
from training_runs import cut_off, loop_of

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # datasets rests for five seconds after each pass over a file
values = yaml.safe_load(open(sys.argv[1]))
loop_of(values, output_dir=sys.argv[2] + "/whole").run()
cut_off(values, 7, output_dir=sys.argv[2] + "/resumed")
again = loop_of(values, output_dir=sys.argv[2] + "/resumed")
again.run()
places = again.progress.state_dict()["loaders"]
assert places[0]["epoch"] != places[1]["epoch"], places
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_go_on_in_a_stream_of_uneven_files(tokenizer_values, picture_folder, tmp_path):
    """One file has 4 images, the other 16: the processes stand in different epochs."""
    images = open_images(str(picture_folder), "train").cast_column("image", Image())
    for name, rows in {"train-0": range(4), "train-1": range(4, 20), "test": range(8)}.items():
        part = images.select(rows).map(lambda row: row, keep_in_memory=True)
        part.to_parquet(tmp_path / "data" / f"{name}.parquet")
    values = tokenizer_values | {"data": {"source": str(tmp_path / "data"), "image_size": 32, "resize_mode": "pad"}}
    values["data"]["streaming"] = True
    values["optimization"] |= {"num_steps": 12, "batch_size": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "script.py").write_text(RESUMED_STREAM)
    in_two_processes(str(tmp_path / "script.py"), str(tmp_path / "recipe.yaml"), str(tmp_path))
    assert equal(weights_in(tmp_path / "resumed"), weights_in(tmp_path / "whole"))
