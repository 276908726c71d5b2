"""PerceptualLoss with real transformers classifiers, tiny and with random weights."""

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessorPil

from titok_hf.training.configs import PerceptualConfig
from titok_hf.training.perceptual import PerceptualLoss
from titok_hf.training.recipes import RecipeError


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> ConvNextForImageClassification:
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5)
    model = ConvNextForImageClassification(config).eval()
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    model.folder = str(folder)
    return model


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)


def test_logits_term_is_the_mean_squared_difference_of_logits(classifier, images):
    loss = PerceptualLoss(PerceptualConfig(classifier.folder, logits_weight=0.5))
    first, second = (classifier(image).logits for image in images)
    assert torch.allclose(loss(*images), 0.5 * (first - second).square().mean(), rtol=1e-4)


def test_equal_images_have_no_distance_and_others_have(classifier, images):
    loss = PerceptualLoss(PerceptualConfig(classifier.folder, logits_weight=0.0, features_weight=1.0))
    assert loss(images[0], images[0]) == 0
    # Unit vectors are at most 2 apart, so their squared distance is at most 4.
    assert 0 < loss(*images) < 4


def test_gradients_reach_the_prediction_and_never_the_network(classifier, images):
    loss = PerceptualLoss(PerceptualConfig(classifier.folder, features_weight=1.0)).train()
    prediction = images[0].requires_grad_()
    loss(prediction, images[1]).backward()
    assert prediction.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert not loss.network.training


def test_size_and_normalisation_of_a_saved_image_processor_are_applied(classifier, images, tmp_path):
    classifier.save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 64}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        tmp_path
    )
    loss = PerceptualLoss(PerceptualConfig(str(tmp_path), logits_weight=1.0))
    first, second = (
        classifier((torch.nn.functional.interpolate(x, (64, 64), mode="bilinear", antialias=True) - 0.5) / 0.25).logits
        for x in images
    )
    assert torch.allclose(loss(*images), (first - second).square().mean(), rtol=1e-3)


def test_a_folder_without_a_classifier_is_named(tmp_path):
    with pytest.raises(RecipeError, match=f"'{tmp_path}', which holds no transformers image classifier"):
        PerceptualLoss(PerceptualConfig(str(tmp_path)))
