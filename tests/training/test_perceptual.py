"""PerceptualLoss with real transformers classifiers, tiny and with random weights, and a stand-in for LPIPS."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
)

from titok_hf.training.configs import PerceptualConfig
from titok_hf.training.perceptual import PerceptualLoss
from titok_hf.training.recipes import RecipeError, build_recipe


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> ConvNextForImageClassification:
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5)
    model = ConvNextForImageClassification(config).eval()
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    model.folder = str(folder)
    return model


class StandInForLpips(nn.Module):
    """Called as torchmetrics' LPIPS network is; it refuses what that would read wrongly or lose digits of."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        assert normalize, "the images are in [0, 1]"
        assert prediction.dtype == target.dtype == torch.float32
        return (self.convolution(prediction) - self.convolution(target)).square().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)


def test_logits_term_is_the_mean_squared_difference_of_logits(classifier, images):
    loss = PerceptualLoss(PerceptualConfig(classifier.folder, logits_weight=0.5))(*images)
    first, second = (classifier(image).logits for image in images)
    assert loss.keys() == {"perceptual_loss"}
    assert torch.allclose(loss["perceptual_loss"], 0.5 * (first - second).square().mean(), rtol=1e-4)


def test_equal_images_have_no_distance_and_others_have(classifier, images):
    loss = PerceptualLoss(PerceptualConfig(classifier.folder, logits_weight=0.0, features_weight=1.0))
    assert loss(images[0], images[0])["perceptual_loss"] == 0
    # Unit vectors are at most 2 apart, so their squared distance is at most 4.
    assert 0 < loss(*images)["perceptual_loss"] < 4


def test_features_of_a_transformer_are_compared_over_their_channels(images, tmp_path):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    )
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    loss = PerceptualLoss(PerceptualConfig(str(tmp_path), logits_weight=0.0, features_weight=1.0))(*images)
    states = [model(image, output_hidden_states=True).hidden_states for image in images]
    # 1 - cosine, twice, is the squared distance of unit vectors.
    wanted = [2 - 2 * F.cosine_similarity(a, b, dim=2).mean() for a, b in zip(*states, strict=True)]
    assert torch.allclose(loss["perceptual_loss"], sum(wanted) / len(wanted), atol=1e-5)


def test_gradients_reach_the_prediction_and_never_the_networks(classifier, images):
    config = PerceptualConfig(classifier.folder, features_weight=1.0, lpips_weight=1.0)
    loss = PerceptualLoss(config, StandInForLpips()).train()
    prediction, target = (image.requires_grad_() for image in images)
    loss(prediction, target)["perceptual_loss"].backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.modules())


def test_the_published_single_stage_weights_sum_lpips_and_logits(classifier, images):
    """Published as their average with weights 1.0 and 0.1, times 1.1."""
    network = StandInForLpips()
    loss = PerceptualLoss(PerceptualConfig(classifier.folder, lpips_weight=1.0), network)(*images)
    lpips = network(*images, normalize=True).mean()
    logits = (classifier(images[0]).logits - classifier(images[1]).logits).square().mean()
    assert torch.allclose(loss["perceptual_loss"], 1.1 * (1.0 * lpips + 0.1 * logits) / (1.0 + 0.1), rtol=1e-4)
    assert torch.allclose(loss["lpips_loss"], lpips)
    assert torch.equal(loss["perceptual_loss"], loss["lpips_loss"] + loss["classifier_loss"])


def test_lpips_alone_is_computed_in_float32_under_autocast(images):
    network = StandInForLpips()
    loss = PerceptualLoss(PerceptualConfig(lpips_weight=2.0), network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(images[0].bfloat16(), images[1])
    whole = network(images[0].bfloat16().float(), images[1], normalize=True).mean()
    assert half.keys() == {"perceptual_loss"}
    assert torch.equal(half["perceptual_loss"], 2 * whole)


def test_size_and_normalisation_of_a_saved_image_processor_are_applied(classifier, images, tmp_path):
    classifier.save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 64}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        tmp_path
    )
    loss = PerceptualLoss(PerceptualConfig(str(tmp_path), logits_weight=1.0))
    first, second = (
        classifier((F.interpolate(x, (64, 64), mode="bilinear", antialias=True) - 0.5) / 0.25).logits for x in images
    )
    assert torch.allclose(loss(*images)["perceptual_loss"], (first - second).square().mean(), rtol=1e-3)


def test_a_folder_without_a_classifier_is_named(tmp_path):
    with pytest.raises(RecipeError, match=f"'{tmp_path}' is a folder without an image classifier of transformers"):
        PerceptualLoss(PerceptualConfig(str(tmp_path)))


def test_a_hub_classifier_out_of_reach_says_how_to_get_it():
    with pytest.raises(
        RecipeError, match="nobody/nothing.*hf download ID --local-dir.*ConvNeXt_Small_Weights.IMAGENET1K_V1"
    ):
        PerceptualLoss(PerceptualConfig("nobody/nothing"))


def test_missing_weights_of_lpips_say_which_file_belongs_where(tmp_path):
    wanted = Path(tmp_path, "checkpoints", "vgg16-397923af.pth")
    with pytest.raises(RecipeError, match=f"no file {wanted}. Download https://.*/vgg16-397923af.pth to there"):
        PerceptualLoss(PerceptualConfig(lpips_weight=1.0, lpips_weights=str(tmp_path)))


def test_lpips_without_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    with pytest.raises(RecipeError, match="torchvision cannot be imported.*belongs to torch"):
        PerceptualLoss(PerceptualConfig(lpips_weight=1.0, lpips_network="alex"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits_weight": 0.0}, "logits_weight and features_weight are both 0"),
        ({"lpips_weight": -1.0}, "lpips_weight is -1.0; it must be at least 0"),
        ({"features_weight": float("nan")}, "features_weight is nan; it must be at least 0"),
        ({"model": None}, "loss.perceptual names no network"),
    ],
)
def test_weights_that_make_no_loss_are_refused(classifier, changes, message):
    with pytest.raises(RecipeError, match=message):
        build_recipe(PerceptualConfig, {"model": str(classifier.folder)} | changes)
