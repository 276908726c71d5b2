"""The pipeline on a device that is not the CPU, on any machine; and on a GPU, where there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup

from run_elsewhere import METHODS, SETTINGS, differences
from tiny_pipeline import generators, tiny_pipeline

SCRIPT = Path(__file__).parent / "run_elsewhere.py"
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def found() -> list[dict]:
    result = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()[-2:]]


def test_offloaded_models_compute_the_same_in_every_method(found):
    differing = {name: error for name, error in found[0].items() if error is not None}
    assert not differing, "\n".join(differing.values())
    assert len(found[0]) == 2 * len(METHODS)


def test_no_sampling_step_waits_for_the_device(found):
    assert found[1] == {name: [] for name in SETTINGS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_groups_of_layers_come_and_go_in_every_method(kind, method, monkeypatch):
    """On the CPU alone, where the moves are free: all groups that a method uses are loaded, and let go again."""
    expected = METHODS[method](tiny_pipeline())
    pipe = tiny_pipeline()
    pipe.enable_group_offload(torch.device("cpu"), offload_type=kind, num_blocks_per_group=1)
    loaded = set()
    onload, offload = ModuleGroup.onload_, ModuleGroup.offload_
    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: (loaded.add(group), onload(group))[1])
    monkeypatch.setattr(ModuleGroup, "offload_", lambda group: (loaded.discard(group), offload(group))[1])
    used = []
    part = pipe.tokenizer.decoder if method in ("__call__", "decode") else pipe.tokenizer.encoder
    part.pre_norm.register_forward_pre_hook(lambda *_: used.extend(loaded))  # inside of `forward`, after its hooks
    torch.testing.assert_close(METHODS[method](pipe), expected)
    parameters = {parameter for group in used for parameter in group.parameters}
    parameters |= {parameter for group in used for module in group.modules for parameter in module.parameters()}
    assert part.class_token in parameters and not loaded


@on_a_gpu
def test_offloaded_models_compute_the_same_on_a_gpu():
    expected = {method: call(tiny_pipeline()) for method, call in METHODS.items()}
    assert not [error for error in differences(torch.device("cuda"), expected).values() if error is not None]


@on_a_gpu
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_no_sampling_step_waits_for_a_gpu(settings):
    pipe = tiny_pipeline(**settings).to("cuda")
    pipe([0, 1], generator=generators(0, 1), output_type="latent")
    pipe.transformer.register_forward_pre_hook(lambda *_: torch.cuda.set_sync_debug_mode("error"))
    seen = []

    def callback(pipe, step, timestep, tensors):
        torch.cuda.set_sync_debug_mode("default")  # the next pass of the transformer begins with "error" again
        seen.append(step)
        return {}

    pipe([0, 1], generator=generators(0, 1), callback_on_step_end=callback, output_type="latent")
    assert seen == [0, 1, 2, 3]
