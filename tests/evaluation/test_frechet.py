"""FrechetDistance against the original's figures, its formula, and itself in two processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    ConvNextModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import golden_fill
from golden_checkpoints import GOLDEN
from titok_hf.evaluation.features import FeatureNetwork, FeatureSet
from titok_hf.evaluation.frechet import FrechetDistance, round_to_bytes
from titok_hf.evaluation.frozen_classifier import FrozenClassifier
from titok_hf.evaluation.reconstruction import CodebookUsage, count_codes

FIGURES = json.loads((GOLDEN / "training_evaluator.json").read_text())


class Recited(nn.Module):
    """A network that gives rows of features that were fixed before, whatever it sees."""

    def __init__(self, batches: list[torch.Tensor]) -> None:
        super().__init__()
        self.batches = iter(batches)
        self.num_features = batches[0].shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return next(self.batches)


def formula_features(case: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The features of the case: real ones, and made ones."""
    shape = (case["num_examples"], case["feature_dim"])
    features = []
    for kind, scale, shift, mixed in (("real", 1.0, 0.0, 0.5), ("fake", 1.25, 0.25, 0.375)):
        rows = np.asarray(golden_fill.normal(f"fid-{kind}:{case['name']}:a", shape)).astype(np.float64) * scale + shift
        rows[:, 1:] += mixed * rows[:, :-1].copy()
        features.append(torch.from_numpy(rows))
    return features[0], features[1]


@pytest.mark.parametrize("case", FIGURES["cases"], ids=lambda case: case["name"])
def test_distance_of_formula_features_equals_the_original_s(case):
    real, made = (features.split(case["batch"]) for features in formula_features(case))
    distance = FrechetDistance(Recited([*real, *made]))
    for batch in real:
        distance.update(torch.rand(len(batch), 3, 8, 8), real=True)
    for batch in made:
        distance.update(torch.rand(len(batch), 3, 8, 8), real=False)
    # 40 rows span no 64 dimensions: the original then takes the root of a singular matrix, to about 8 digits.
    assert distance.compute() == pytest.approx(
        case["result"]["rFID"], rel=1e-12 if case["name"] == "full_rank" else 1e-7
    )


@pytest.mark.parametrize("case", FIGURES["cases"], ids=lambda case: case["name"])
def test_codebook_usage_and_entropy_equal_the_original_s(case):
    size = case["num_codes"]
    codes = np.asarray(golden_fill.integers(f"usage:{case['name']}:a", (case["num_examples"], 3), 3 * size)) // 3
    codes = np.where(codes > 200, 5, codes)
    usage = CodebookUsage.from_histogram(count_codes(torch.from_numpy(codes.astype(np.int64)), size))
    assert usage.share_used == case["result"]["CodebookUsage"]
    assert np.log2(usage.perplexity) == pytest.approx(case["result"]["CodebookEntropy"], rel=1e-6)


def test_images_are_rounded_to_bytes_as_the_original_s_evaluation_rounds_them():
    levels = round_to_bytes(torch.tensor(FIGURES["to_uint8"]["values"]))
    assert levels.dtype == torch.uint8
    assert levels.tolist() == FIGURES["to_uint8"]["evaluation_path_rounds"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5)
    folder = tmp_path_factory.mktemp("classifier")
    ResNetForImageClassification(config).save_pretrained(folder)
    return str(folder)


def test_distance_in_a_classifier_s_features_follows_the_formula(classifier):
    real, made = torch.rand(40, 3, 32, 32), torch.rand(30, 3, 32, 32) ** 2
    distance = FrechetDistance(classifier)
    for images, is_real in ((real[:25], True), (made, False), (real[25:], True)):
        distance.update(images, real=is_real)
    model = FrozenClassifier(classifier).network
    with torch.no_grad():
        first, second = (
            model.resnet(round_to_bytes(images) / 255).pooler_output.flatten(1).double() for images in (real, made)
        )
    assert first.shape == (40, 12)
    cross = torch.linalg.eigvals(first.T.cov() @ second.T.cov()).sqrt().real.sum()
    wanted = (
        (first.mean(0) - second.mean(0)).square().sum() + first.T.cov().trace() + second.T.cov().trace() - 2 * cross
    )
    assert distance.compute() == pytest.approx(wanted.item(), rel=1e-5)
    assert wanted > 1e-4  # or the line above would say nothing


def test_equal_sets_have_no_distance_and_reset_forgets(classifier):
    images = torch.rand(40, 3, 32, 32)
    distance = FrechetDistance(classifier)
    distance.update(images, real=True)
    distance.update(1 - images, real=False)
    apart = distance.compute()
    distance.reset()
    distance.update(images, real=True)
    distance.update(images, real=False)
    assert abs(distance.compute()) < 1e-6 * apart


def test_stored_statistics_serve_in_place_of_real_images(classifier):
    real, made = torch.rand(2, 40, 3, 32, 32)
    distance, from_statistics = FrechetDistance(classifier), FrechetDistance(classifier)
    distance.update(real, real=True)
    distance.update(made * 0.5, real=False)
    statistics = FeatureSet()
    statistics.update(distance.network(round_to_bytes(real)))
    from_statistics.compare_with(statistics.gaussians()[0])
    from_statistics.update(made * 0.5, real=False)
    assert from_statistics.compute() == pytest.approx(distance.compute(), rel=1e-6)
    from_statistics.reset(real=False)
    with pytest.raises(RuntimeError, match="0 generated images"):
        from_statistics.compute()


def test_autocast_around_it_changes_nothing(classifier):
    real, made = torch.rand(2, 20, 3, 32, 32)
    numbers = []
    for enabled in (False, True):
        distance = FrechetDistance(classifier)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            distance.update(real, real=True)
            distance.update(made, real=False)
            numbers.append(distance.compute())
    assert numbers[0] == numbers[1]


def test_a_network_without_pooled_output_gives_the_mean_of_its_last_states(tmp_path):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=24, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    classifier, images = FrozenClassifier(str(tmp_path)), torch.rand(2, 3, 24, 24)
    states = classifier(images, output_hidden_states=True).hidden_states[-1]
    wanted = classifier.network.vit.layernorm(states).mean(dim=1)
    assert torch.allclose(classifier.pooled_features(images), wanted, atol=1e-6)
    FrechetDistance(str(tmp_path)).update(images, real=True)  # which looked at 24 x 24 to learn the number of features


def test_images_of_any_size_get_the_size_of_the_saved_processor(tmp_path):
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2)
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 40}).save_pretrained(tmp_path)
    classifier = FrozenClassifier(str(tmp_path))
    assert classifier.size == (40, 40)
    assert classifier(torch.rand(1, 3, 64, 64), output_hidden_states=True).hidden_states[0].shape[-1] == 20


TWO_PROCESSES = """
import sys, torch
from titok_hf.evaluation.features import FeatureNetwork, FeatureSet
from titok_hf.evaluation.frechet import FrechetDistance
rank, folder, classifier = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
images = torch.load(folder + "/images.pt")
shared, uneven = FrechetDistance(classifier), FrechetDistance(classifier)
shared.update(images["real"][rank::2], real=True)
shared.update(images["made"][rank::2], real=False)
if rank == 0:  # the other process has no images at all
    uneven.update(images["real"], real=True)
    uneven.update(images["made"], real=False)
torch.save([shared.compute(), uneven.compute()], f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_find_the_distance_of_one(classifier, tmp_path):
    images = {"real": torch.rand(21, 3, 32, 32), "made": torch.rand(20, 3, 32, 32) ** 2}
    torch.save(images, tmp_path / "images.pt")
    processes = [
        subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path), classifier])
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    alone = FrechetDistance(classifier)
    alone.update(images["real"], real=True)
    alone.update(images["made"], real=False)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert found == [[pytest.approx(alone.compute(), rel=1e-9)] * 2] * 2


def test_one_image_makes_no_gaussian(classifier):
    distance = FrechetDistance(classifier)
    distance.update(torch.rand(1, 3, 32, 32), real=True)
    distance.update(torch.rand(4, 3, 32, 32), real=False)
    with pytest.raises(RuntimeError, match="1 real and 4 generated images. Give more than one"):
        distance.compute()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "torch.uint8 of shape .2, 3, 32, 32.*floats in .0, 1."),
        (torch.zeros(3, 32, 32), "shape .3, 32, 32."),
        (torch.zeros(2, 1, 32, 32), "have 1 channels; the classifier takes 3"),
    ],
)
def test_images_of_another_kind_are_refused(classifier, images, message):
    with pytest.raises(ValueError, match=message):
        FrechetDistance(classifier).update(images, real=True)


def test_networks_that_are_not_there_say_what_would_be(tmp_path):
    with pytest.raises(ValueError, match="no file .*inception.pth.*Download https://github.com/toshas/torch-fidelity"):
        FrechetDistance(str(tmp_path / "inception.pth"))
    with pytest.raises(ValueError, match="is a folder without an image classifier of transformers"):
        FrechetDistance(str(tmp_path))
    with pytest.raises(ValueError, match="nobody/nothing.*neither a folder here nor the Hub id.*hf download"):
        FrechetDistance("nobody/nothing")


@pytest.mark.parametrize("content", [b"", b"nonsense", "other weights"])
def test_a_file_of_something_else_is_refused(content, tmp_path: Path):
    path = tmp_path / "inception.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=f"{path}' (is not a readable|holds other weights).*Download https://"):
        FrechetDistance(path)


def test_images_that_are_not_finite_are_refused(classifier):
    with pytest.raises(ValueError, match="pixels of the images are not all finite"):
        FrechetDistance(classifier).update(torch.full((2, 3, 32, 32), torch.nan), real=False)


def test_features_that_are_not_finite_are_refused():
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :3].float() / 0

    network = FeatureNetwork(Broken())
    with pytest.raises(ValueError, match="features that are not finite"):
        FeatureSet().update(network(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)))


def test_a_network_saved_without_its_classifying_layer_is_refused(tmp_path):
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2)
    ConvNextModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights of ConvNextForImageClassification: classifier.bias"):
        FrozenClassifier(str(tmp_path))
