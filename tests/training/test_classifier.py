"""titok_hf.training.classifier: the task learns, saves what transformers reads, and is as seeded as it says."""

from pathlib import Path

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from PIL import Image
from transformers import AutoModelForImageClassification

from titok_hf.evaluation.frozen_classifier import FrozenClassifier
from titok_hf.training.classifier import build_classifier, shift_randomly
from titok_hf.training.configs import load_training_recipe
from titok_hf.training.recipes import RecipeError, load_recipe
from titok_hf.training.start import train
from training_runs import cut_off, entries_of, equal, recipe_of, train_command, trained


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


def tiny_values(source, output_dir):
    return {
        "kind": "classifier",
        "output_dir": str(output_dir),
        "data": {"source": str(source), "image_size": 16, "resize_mode": "pad", "horizontal_flip": True},
        "model": {
            "model_type": "regnet",
            # Not fewer than 8 channels: with 4 in channels-last order, PyTorch 2.13 writes beyond a tensor's end in
            # the backward pass where the processor has AVX2, which ends in an abort or in other last bits.
            **{"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "groups_width": 8, "layer_type": "x"},
        },
        "max_shift": 1,
        "optimization": {
            **{"num_steps": 40, "batch_size": 8, "learning_rate": 1e-2, "end_learning_rate": 0.0},
            **{"warmup_steps": 4, "ema_decay": 0.0, "weight_decay": 0.05},
        },
        "intervals": {"evaluate_every": 10, "checkpoint_every": 10, "trackers": []},
    }


def test_a_classifier_learns_and_is_saved_for_transformers(red_and_green, tmp_path):
    values = tiny_values(red_and_green, tmp_path / "run")
    folder = train(recipe_of(values))
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "green", 1: "red"}  # folders are sorted
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0, 3:13, 3:13] = 0.85
    assert model.eval()(pixel_values=red).logits.argmax().item() == 1
    assert entries_of(values)[-1]["test/accuracy"] == 1.0
    assert load_recipe(type(recipe_of(values)), tmp_path / "run" / "recipe.yaml") == recipe_of(values)
    assert (folder / "curves.png").is_file()


def test_the_folder_of_a_run_names_its_model(red_and_green, tmp_path):
    """Recipes and commands name `runs/fashion_classifier`, whichever version trained it."""
    values = tiny_values(red_and_green, tmp_path / "run")
    values["optimization"]["num_steps"] = 1
    folder = train(recipe_of(values))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(
        FrozenClassifier(str(tmp_path / "run"))(images).logits, FrozenClassifier(str(folder))(images).logits
    )


def test_the_seed_decides_the_weights(red_and_green, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        weights.append(
            trained(tiny_values(red_and_green, tmp_path / name) | {"seed": seed}, optimization={"num_steps": 4})
        )
    assert equal(weights[0], weights[1])
    assert not equal(weights[0], weights[2])


def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(red_and_green, tmp_path):
    """Statistics of batch normalisation are part of the state, as are the shifts of images."""
    whole = trained(tiny_values(red_and_green, tmp_path / "whole"))
    values = tiny_values(red_and_green, tmp_path / "cut")
    cut_off(values, after_step=15)
    assert equal(trained(values), whole)


def test_an_image_without_a_class_is_refused(tmp_path):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["red", "green"])})
    for split, labels in (("train", [0, 1, -1]), ("test", [0, 1, 1])):
        rows = {"image": [Image.new("RGB", (8, 8))] * 3, "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    with pytest.raises(RecipeError, match=r"training split, 1 of 3 labels are no class: row 2 has -1. .*in \[0, 2\)"):
        train(recipe_of(tiny_values(tmp_path / "data", tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_is_not_overwritten(red_and_green, tmp_path):
    with pytest.raises(RecipeError, match="colours is not empty and holds no run"):
        train(recipe_of(tiny_values(red_and_green, red_and_green)))


def test_each_image_is_shifted_as_a_whole_by_up_to_the_given_number():
    torch.manual_seed(0)
    images = torch.zeros(400, 1, 7, 7)
    images[:, :, 3, 3], images[:, :, 3, 4] = 1.0, 2.0
    moved = shift_randomly(images, max_shift=2, draws=torch.rand(400, 2))
    assert moved.shape == images.shape
    assert torch.equal(moved.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))  # a shift of 2 loses nothing here
    first = (moved == 1).nonzero()[:, 2:]
    second = (moved == 2).nonzero()[:, 2:]
    assert (second - first).unique(dim=0).tolist() == [[0, 1]]  # neighbours stay neighbours
    assert len(first.unique(dim=0)) == 25  # every shift occurs
    assert first.amin(dim=0).tolist() == [1, 1] and first.amax(dim=0).tolist() == [5, 5]


def test_no_shift_changes_nothing():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    assert torch.equal(shift_randomly(images, max_shift=0, draws=torch.rand(2, 2)), images)


@pytest.mark.parametrize("name", ["fashion_classifier", "fashion_judge"])
def test_the_recipes_build_small_networks(name):
    model = build_classifier(load_training_recipe(name).model, list("abcdefghij"))
    images = torch.rand(2, 3, 32, 32)
    assert model.eval()(pixel_values=images).logits.shape == (2, 10)
    assert model.num_parameters() < 4e6


def test_judge_and_perceptual_network_have_nothing_in_common():
    classifier, judge = (load_training_recipe(f"fashion_{name}") for name in ("classifier", "judge"))
    assert classifier.model["model_type"] != judge.model["model_type"]
    assert classifier.seed != judge.seed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.learning_rates=1", "no key 'optimization.learning_rates'. Did you mean 'learning_rate'?"),
        ("optimization.num_steps=0", "optimization.num_steps is 0"),
        ("data.source=/nowhere", "The data source /nowhere does not exist"),
        ("output_dir=.", ". is not empty and holds no run"),
        ("model.model_type=resnetz", "model.model_type is 'resnetz', which is no architecture of transformers"),
        ("model.widths=[1]", "model.widths is not a field of RegNetConfig"),
        ("push_to_hub=user/classifier", "a classifier is a plain model of transformers"),
    ],
)
def test_the_command_names_what_is_wrong_and_fails(override, message, red_and_green, capsys):
    values = ["output_dir=unused", f"data.source={red_and_green}", "optimization.batch_size=8", override]
    with pytest.raises(SystemExit) as stop:
        train_command(["fashion_classifier", *(argument for value in values for argument in ("--set", value))])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("unused").exists()
