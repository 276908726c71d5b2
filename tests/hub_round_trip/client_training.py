"""A training run that pushes its model: access is checked before the first step, no process waits for the upload."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub_client import failing
from hub_server import Fault
from titok_hf.bundled import example_images
from training_runs import train_command

SIZES = {"encoder_hidden_size": 16, "encoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2}
SIZES |= {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
MODEL = {"patch_size": 8, "num_latent_tokens": 4, "codebook_size": 16, "codebook_dim": 4, **SIZES}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A run of two steps."""
    for split in ("train", "test"):
        folder = tmp_path / "pictures" / split / "clothes"
        folder.mkdir(parents=True)
        for picture in example_images():
            shutil.copy(picture, folder)
    values: dict[str, Any] = {
        "kind": "tokenizer",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": str(tmp_path / "pictures"), "image_size": 32, "resize_mode": "pad"},
        "model": MODEL,
        "optimization": {"num_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1},
        "intervals": {"num_test_images": 4, "trackers": []},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("someone-else/model", None, "--push-to-hub: .*someone-else/model"),
        ("stranger/theirs", None, "--push-to-hub: .*stranger/theirs"),  # which is there, and may be read
        ("user/model", "hf_wrong", "--push-to-hub: .*user/model"),
        ("user/model/of/mine", None, "--push-to-hub: .*no id of a Hub repository"),
    ],
)
def test_who_may_not_push_learns_it_before_the_first_step(
    hub, recipe, tmp_path, monkeypatch, capsys, repo_id, token, message
):
    hub.repository("stranger/theirs")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SystemExit) as refused:
        train_command([str(recipe), "--push-to-hub", repo_id])
    assert refused.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_processes_have_ended_while_the_main_one_pushes(hub, recipe):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "titok_hf.training", str(recipe), "--push-to-hub", "user/pushed"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with failing(Fault("POST .*/commit/", seconds=20)):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 200
        while not any("/commit/" in request for request in hub.requests):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while len(workers := children_of(process)) > 1:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        assert len(workers) == 1
        error = process.communicate(timeout=100)[1]
    assert process.returncode == 0, error
    assert "pushed to" in error
    assert "model.safetensors" in hub.repositories["models", "user/pushed"].files()


def children_of(process: subprocess.Popen) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
