"""titok_hf.training.classifier: the trainer learns, saves what transformers reads, and is as seeded as it says."""

import json

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from PIL import Image
from transformers import AutoModelForImageClassification

from titok_hf.training.classifier import (
    ClassifierConfig,
    ClassifierModelConfig,
    build_classifier,
    main,
    shift_randomly,
    train_classifier,
)
from titok_hf.training.configs import ImageDataConfig
from titok_hf.training.recipes import RecipeError, load_recipe


@pytest.fixture
def red_and_green(tmp_path):
    """A folder of 2 classes that a network of any size tells apart."""
    for split in ("train", "test"):
        for channel, name in enumerate(("red", "green")):
            folder = tmp_path / "colours" / split / name
            folder.mkdir(parents=True)
            for index in range(16):
                colour = [20 + index] * 3
                colour[channel] = 200 + index
                Image.new("RGB", (10, 10), tuple(colour)).save(folder / f"{index}.png")
    return tmp_path / "colours"


def tiny_config(source, output_dir, **changes):
    values = {
        "output_dir": str(output_dir),
        "data": ImageDataConfig(source=str(source), image_size=16, resize_mode="pad", horizontal_flip=True),
        "model": ClassifierModelConfig(
            "regnet",
            # Not fewer than 8 channels: with 4 in channels-last order, PyTorch 2.13 writes beyond a tensor's end in
            # the backward pass where the processor has AVX2, which ends in an abort or in other last bits.
            {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "groups_width": 8, "layer_type": "x"},
        ),
        "num_epochs": 10,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "max_shift": 1,
    }
    return ClassifierConfig(**{**values, **changes})


def test_a_classifier_learns_and_is_saved_for_transformers(red_and_green, tmp_path):
    config = tiny_config(red_and_green, tmp_path / "classifier")
    accuracy = train_classifier(config)
    assert accuracy == 1.0
    folder = tmp_path / "classifier"
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "green", 1: "red"}  # folders are sorted
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0, 3:13, 3:13] = 0.85
    assert model.eval()(pixel_values=red).logits.argmax().item() == 1
    assert json.loads((folder / "metrics.json").read_text()) == {"test_accuracy": 1.0}
    assert load_recipe(ClassifierConfig, folder / "recipe.yaml") == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "colours"]  # nothing half-written


def test_the_seed_decides_the_weights(red_and_green, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_classifier(tiny_config(red_and_green, tmp_path / name, num_epochs=1, seed=seed))
        model = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_image_without_a_class_is_refused(tmp_path):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["red", "green"])})
    for split, labels in (("train", [0, 1, -1]), ("test", [0, 1, 1])):
        rows = {"image": [Image.new("RGB", (8, 8))] * 3, "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    with pytest.raises(RecipeError, match=r"training split, 1 of 3 labels are no class: row 2 has -1. .*in \[0, 2\)"):
        train_classifier(tiny_config(tmp_path / "data", tmp_path / "classifier"))
    assert not (tmp_path / "classifier").exists()


def test_an_existing_folder_is_not_overwritten(red_and_green, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError, match="taken exists already"):
        train_classifier(tiny_config(red_and_green, tmp_path / "taken"))


def test_each_image_is_shifted_as_a_whole_by_up_to_the_given_number():
    torch.manual_seed(0)
    images = torch.zeros(400, 1, 7, 7)
    images[:, :, 3, 3], images[:, :, 3, 4] = 1.0, 2.0
    moved = shift_randomly(images, max_shift=2)
    assert moved.shape == images.shape
    assert torch.equal(moved.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))  # a shift of 2 loses nothing here
    first = (moved == 1).nonzero()[:, 2:]
    second = (moved == 2).nonzero()[:, 2:]
    assert (second - first).unique(dim=0).tolist() == [[0, 1]]  # neighbours stay neighbours
    assert len(first.unique(dim=0)) == 25  # every shift occurs
    assert first.amin(dim=0).tolist() == [1, 1] and first.amax(dim=0).tolist() == [5, 5]


def test_no_shift_changes_nothing():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    assert torch.equal(shift_randomly(images, max_shift=0), images)


@pytest.mark.parametrize("name", ["fashion_classifier", "fashion_judge"])
def test_the_recipes_build_small_networks(name):
    config = load_recipe(ClassifierConfig, name, ["output_dir=unused"])
    model = build_classifier(config.model, list("abcdefghij"))
    images = torch.rand(2, 3, 32, 32)
    assert model.eval()(pixel_values=images).logits.shape == (2, 10)
    assert model.num_parameters() < 4e6


def test_judge_and_perceptual_network_have_nothing_in_common():
    classifier, judge = (
        load_recipe(ClassifierConfig, f"fashion_{name}", ["output_dir=unused"]) for name in ("classifier", "judge")
    )
    assert classifier.model.model_type != judge.model.model_type
    assert classifier.seed != judge.seed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rates=1", "no key 'learning_rates'. Did you mean 'learning_rate'?"),
        ("num_epochs=0", "num_epochs is 0"),
        ("data.source=/nowhere", "The data source /nowhere does not exist"),
        ("output_dir=.", ". exists already"),
    ],
)
def test_the_command_names_what_is_wrong_and_fails(override, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fashion_classifier", "--set", "output_dir=unused", "--set", "mixed_precision=no", "--set", override])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
