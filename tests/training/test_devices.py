"""Every kind of recipe on a device that is not the CPU, on any machine: no tensor stays behind, no step waits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification

from titok_hf.devices import moved_without_wait
from training_runs import loop_of

SCRIPT = Path(__file__).parents[1] / "train_elsewhere.py"


def test_every_kind_trains_on_another_device_and_its_steps_do_not_wait_for_it(values_of, tmp_path):
    recipes = {}
    for kind in ("gan", "kl", "vqgan", "stage1", "stage2", "generator"):
        recipes[kind] = values_of(kind) | {"output_dir": str(tmp_path / kind)}
        recipes[kind]["optimization"] |= {"num_steps": 2, "batch_size": 2}
        recipes[kind]["intervals"]["num_test_images"] = 12  # the windows of SSIM are the slow part
    recipes["gan"]["optimization"]["gradient_accumulation_steps"] = 2
    recipes["stage1"]["loss"] = {"reinitialize_codes": True}
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5)
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "classifier")
    recipes["gan"]["loss"]["perceptual"] = {"model": str(tmp_path / "classifier")}
    recipes["gan"]["intervals"]["frechet_network"] = str(tmp_path / "classifier")
    for kind in ("gan", "stage2"):
        recipes[kind]["loss"]["adversarial"]["start_step"] = 0
    file = tmp_path / "recipes.json"
    file.write_text(json.dumps(recipes))
    result = subprocess.run([sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    errors, waits = map(json.loads, result.stdout.splitlines()[-2:])
    assert errors.keys() == recipes.keys()
    failed = {kind: error for kind, error in errors.items() if error is not None}
    assert not failed, "\n".join(failed.values())
    assert waits == {kind: [] for kind in recipes}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["gan", "kl", "vqgan", "stage1", "stage2", "generator"])
def test_no_training_step_waits_for_a_gpu(kind, precision, values_of):
    values = values_of(kind)
    values["optimization"]["mixed_precision"] = precision
    loop = loop_of(values)
    batches = iter(loop.task.loader)
    for step in range(3):
        batch = {name: values.to("cuda") for name, values in next(batches).items()}
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step makes the optimiser's state
        try:
            loop._train_step([batch])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    loop._check_steps()


def test_batches_are_pinned_on_their_way_to_a_gpu():
    moves = []

    class Recorded:
        """Stands for a tensor of the CPU: there is no pinned memory without a driver."""

        device = torch.device("cpu")

        def pin_memory(self):
            moves.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            moves.append((device.type, non_blocking))

    moved_without_wait(Recorded(), "cuda")
    moved_without_wait(Recorded(), "cpu")
    assert moves == ["pinned", ("cuda", True), ("cpu", True)]
