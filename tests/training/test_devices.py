"""Training leaves no tensor on the CPU: every kind of recipe on a device that is not the CPU, on any machine."""

import json
import subprocess
import sys
from pathlib import Path

from transformers import ConvNextConfig, ConvNextForImageClassification

SCRIPT = Path(__file__).parents[1] / "train_elsewhere.py"


def test_every_kind_trains_on_another_device(values_of, tmp_path):
    recipes = {}
    for kind in ("gan", "kl", "vqgan", "stage1", "stage2", "generator"):
        recipes[kind] = values_of(kind) | {"output_dir": str(tmp_path / kind)}
        recipes[kind]["optimization"] |= {"num_steps": 1, "batch_size": 2}
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
    errors = json.loads(result.stdout.splitlines()[-1])
    assert errors.keys() == recipes.keys()
    failed = {kind: error for kind, error in errors.items() if error is not None}
    assert not failed, "\n".join(failed.values())
