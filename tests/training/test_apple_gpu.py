"""Training and its measurements on a simulated Apple GPU, which has no float64."""

import math

import pytest
import torch
from accelerate import PartialState
from transformers import ConvNextConfig, ConvNextForImageClassification

from simulated_mps import MPS, SimulatedMPS
from titok_hf.evaluation.frozen_classifier import FrozenClassifier
from training_runs import entries_of, trained

CHANGES = {
    "optimization": {"num_steps": 2},
    "intervals": {"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2, "num_test_images": 4},
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """A folder with a classifier of random weights."""
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5)
    folder = tmp_path_factory.mktemp("classifier")
    ConvNextForImageClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage1", "gan", "generator"])
def test_a_run_asks_an_apple_gpu_for_no_float64(name, values_of, classifier, monkeypatch):
    values = values_of(name)
    if name != "generator":
        values["intervals"]["frechet_network"] = classifier
    devices = set()
    pooled_features = FrozenClassifier.pooled_features

    def watched(self: FrozenClassifier, images: torch.Tensor) -> torch.Tensor:
        devices.add(images.device)
        return pooled_features(self, images)

    monkeypatch.setattr(PartialState, "default_device", property(lambda self: MPS))
    with SimulatedMPS():
        monkeypatch.setattr(FrozenClassifier, "pooled_features", watched)
        trained(values, **CHANGES)
    entries = entries_of(values)
    assert all(math.isfinite(value) for entry in entries for value in entry.values() if isinstance(value, float))
    if name != "generator":
        assert MPS in devices  # the network did run there
        assert any("test/frechet_distance" in entry for entry in entries)
