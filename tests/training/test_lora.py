"""A recipe with `lora`: an adapter with new classes, which a pipeline loads and a resumed run continues exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import titok_hf.checkpoints.lora_mixin as lora_mixin
from tiny_pipeline import tiny_pipeline, tiny_tokenizer
from titok_hf import TiTokPipeline
from titok_hf.bundled import example_images
from titok_hf.training.recipes import RecipeError
from titok_hf.training.start import train
from training_runs import cut_off, forget_accelerate, loop_of, recipe_of

pytest.importorskip("peft")


@pytest.fixture
def lora_values(tmp_path) -> dict[str, Any]:
    """An adapter of the tiny pipeline, for one of its classes and two new ones."""
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    for number, image in enumerate(example_images()):
        for split in ("train", "test"):
            folder = tmp_path / "data" / split / ("kite", "lamp", "tabby cat")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
    return {
        "kind": "generator",
        "output_dir": str(tmp_path / "run"),
        "init_from": str(tmp_path / "pipeline"),
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
        "data": {"source": str(tmp_path / "data"), "image_size": 32},
        "optimization": {"num_steps": 8, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0},
        "intervals": {
            "log_every": 2,
            "evaluate_every": 4,
            "checkpoint_every": 4,
            "num_test_images": 8,
            "trackers": [],
        },
    }


def adapter_of(values: dict[str, Any], **changes: Any) -> dict[str, torch.Tensor]:
    """The weights of the adapter after a whole run, or after the rest of one that was cut off."""
    forget_accelerate()
    train(recipe_of(values, **changes))
    return load_file(Path(values["output_dir"]) / "model" / "pytorch_lora_weights.safetensors")


def test_a_run_ends_in_an_adapter_with_the_new_classes(lora_values):
    weights = adapter_of(lora_values)
    assert weights["new_classes.embeddings"].shape == (2, 32)
    assert not torch.equal(*weights["new_classes.embeddings"])
    pipe = TiTokPipeline.from_pretrained(lora_values["init_from"])
    pipe.load_lora_weights(f"{lora_values['output_dir']}/model")
    assert list(pipe.id2label.values())[3:] == ["kite", "lamp"]
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(["lamp", "tabby cat"]).images) == 2
    pictures = Path(lora_values["output_dir"]) / "images"
    assert len(list(pictures.iterdir())) == 2


def test_only_the_adapter_and_the_rows_of_new_classes_learn(lora_values):
    loop = loop_of(lora_values)
    model = loop.task.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loop.run()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name} | {"token_embedding.weight"}
    rows = (model.token_embedding.weight != before["token_embedding.weight"]).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [20, 21]  # after 16 codes, the mask token and 3 classes


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(lora_values, tmp_path):
    whole = adapter_of(lora_values | {"output_dir": str(tmp_path / "whole")})
    cut_off(lora_values, after_step=5)
    resumed = adapter_of(lora_values)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"target_modules": ["to_q"]}}, r"lora.target_modules has \['to_q'\].*fc1, fc2, .*qkv_proj"),
        ({"lora": {"target_modules": []}}, "lora.target_modules has no name"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout is 1.0. Use a number"),
        ({"init_from": None}, "Name its folder or Hub id in init_from"),
        ({"init_from": "/nowhere"}, "init_from is '/nowhere', and there is no such folder"),
        ({"tokenizer": "somewhere"}, "tokenizer and lora are both given"),
        ({"model": {"hidden_size": 8}}, "model and lora are both given"),
        ({"push_to_hub": "user/name"}, "an adapter is one file beside a pipeline"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(lora_values, changes, message):
    with pytest.raises(RecipeError, match=message):
        loop_of(lora_values, **changes)


def test_a_pipeline_without_a_generator_has_nothing_to_adapt(lora_values, tmp_path):
    TiTokPipeline(tiny_tokenizer(), tiny_pipeline().image_processor).save_pretrained(tmp_path / "tokenizer_only")
    with pytest.raises(RecipeError, match="a pipeline without a generator"):
        loop_of(lora_values, init_from=str(tmp_path / "tokenizer_only"))


def test_without_peft_the_error_names_the_extra(lora_values, monkeypatch):
    monkeypatch.setattr(lora_mixin, "is_peft_available", lambda: False)
    with pytest.raises(RecipeError, match=r"lora: The library peft is needed .*titok-hf\[lora\]"):
        loop_of(lora_values)
