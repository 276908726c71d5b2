"""titok_hf.evaluation.torchvision_convnext: torchvision's weights give torchvision's logits, without torchvision."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import golden_fill
from titok_hf.evaluation.frozen_classifier import FrozenClassifier
from titok_hf.evaluation.torchvision_convnext import PUBLISHED_CONVNEXT, convnext_from_torchvision

FIGURES = json.loads((Path(__file__).parents[1] / "data" / "torchvision_convnext.json").read_text())


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Under torchvision's names, filled as for the figures, which torchvision's own code computed."""
    filled = {}
    for name, shape in FIGURES["shapes"].items():
        is_matrix = len(shape) > 1 and not name.endswith("layer_scale")
        mean = 1.0 if len(shape) == 1 and name.endswith(("0.weight", "1.weight", "2.weight")) else 0.0
        filled[name] = torch.from_numpy(
            golden_fill.normal(f"tv-convnext:{name}", tuple(shape), mean, 0.3 if is_matrix else 0.5)
        )
    return filled


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("torchvision") / "convnext.pth"
    torch.save(weights, path)
    return str(path)


@torch.no_grad()
def test_logits_equal_torchvision(weights):
    images = torch.from_numpy(golden_fill.normal("tv-convnext-images", (2, 3, 32, 32)))
    logits = convnext_from_torchvision(weights)(images).logits
    torch.testing.assert_close(logits, torch.tensor(FIGURES["logits"]), rtol=1e-4, atol=1e-4)


def test_every_weight_of_the_published_network_has_its_place():
    """Names and shapes of torchvision's ConvNeXt-S, and its published number of parameters."""
    shapes = {"features.0.0.weight": (96, 3, 4, 4), "features.0.0.bias": (96,)}
    shapes |= {f"features.0.1.{kind}": (96,) for kind in ("weight", "bias")}
    width = 96
    for stage, depth in enumerate((3, 3, 27, 3)):
        if stage:
            shapes |= {f"features.{2 * stage}.0.{kind}": (width,) for kind in ("weight", "bias")}
            shapes |= {f"features.{2 * stage}.1.weight": (2 * width, width, 2, 2)}
            shapes |= {f"features.{2 * stage}.1.bias": (2 * width,)}
            width *= 2
        for block in range(depth):
            prefix = f"features.{2 * stage + 1}.{block}."
            shapes |= {f"{prefix}layer_scale": (width, 1, 1), f"{prefix}block.0.weight": (width, 1, 7, 7)}
            shapes |= {f"{prefix}block.{name}": (width,) for name in ("0.bias", "2.weight", "2.bias", "5.bias")}
            shapes |= {f"{prefix}block.3.weight": (4 * width, width), f"{prefix}block.3.bias": (4 * width,)}
            shapes |= {f"{prefix}block.5.weight": (width, 4 * width)}
    shapes |= {"classifier.0.weight": (768,), "classifier.0.bias": (768,)}
    shapes |= {"classifier.2.weight": (1000, 768), "classifier.2.bias": (1000,)}
    with torch.device("meta"):
        network = convnext_from_torchvision({name: torch.empty(shape) for name, shape in shapes.items()})
    assert sum(parameter.numel() for parameter in network.parameters()) == 50_223_688
    assert network.config.layer_norm_eps == 1e-6


@torch.no_grad()
def test_a_classifier_from_torchvision_sees_images_as_the_published_loss_shows_them(weights, file):
    """Stretched to 224 x 224, bilinear and antialiased, then ImageNet's mean and standard deviation."""
    classifier, images = FrozenClassifier(file), torch.rand(2, 3, 40, 40)
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    shown = F.interpolate(images, 224, mode="bilinear", align_corners=False, antialias=True)
    wanted = convnext_from_torchvision(weights)((shown - mean) / std).logits
    torch.testing.assert_close(classifier(images).logits, wanted, rtol=1e-3, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_the_published_network_is_taken_from_the_cache_of_torch_hub(weights, monkeypatch, tmp_path):
    """Under its published name; torch checks the hash of what it downloads, not of what lies there."""
    (tmp_path / "checkpoints").mkdir()
    torch.save(weights, tmp_path / "checkpoints" / "convnext_small-0c510722.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    network = FrozenClassifier(PUBLISHED_CONVNEXT).network
    assert torch.equal(network.classifier.weight, weights["classifier.2.weight"])


def test_without_a_network_the_file_and_its_place_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    wanted = "download https://download.pytorch.org/models/convnext_small-0c510722.pth elsewhere and put it at"
    with pytest.raises(ValueError, match=f"{wanted} {tmp_path}"):
        FrozenClassifier(PUBLISHED_CONVNEXT)


@pytest.mark.parametrize("change", ["missing", "strange", "shape", "file"])
def test_other_files_are_refused(change, weights, tmp_path):
    changed = dict(weights)
    if change == "missing":
        del changed["features.3.0.block.3.bias"]
    elif change == "strange":
        changed["fc.weight"] = torch.zeros(1)
    elif change == "shape":
        changed["features.3.0.block.3.bias"] = torch.zeros(3)
    torch.save(changed, tmp_path / "some.pth")
    if change == "file":
        (tmp_path / "some.pth").write_text("<html>")
    with pytest.raises(ValueError, match="some.pth' can't be read as a ConvNeXt of torchvision"):
        FrozenClassifier(str(tmp_path / "some.pth"))
