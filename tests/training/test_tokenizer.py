"""The tokenizer trainer: it learns, re-initialises codes, and refuses recipes that cannot work."""

import pytest
import torch

from titok_hf import TiTokConfig
from titok_hf.training.__main__ import main
from titok_hf.training.configs import TokenizerRecipe
from titok_hf.training.loop import make_accelerator
from titok_hf.training.recipes import RecipeError, build_recipe, load_recipe
from titok_hf.training.tokenizer import TokenizerTask, tokenizer_config, train_tokenizer


def psnr_of(values: dict) -> float:
    recipe = build_recipe(TokenizerRecipe, values)
    task = TokenizerTask(recipe, make_accelerator(recipe))
    with torch.no_grad():
        return task.evaluate()[0]["psnr"]


def test_training_reduces_the_error(tokenizer_values, tmp_path):
    before = psnr_of(tokenizer_values | {"output_dir": str(tmp_path / "untrained")})
    tokenizer_values["optimization"] |= {"num_steps": 100, "ema_decay": 0.9}
    tokenizer_values["cadence"] = {"log_every": 50, "evaluate_every": 100, "checkpoint_every": 100}
    recipe = build_recipe(TokenizerRecipe, tokenizer_values)
    task = TokenizerTask(recipe, make_accelerator(recipe))
    task.model = type(task.model).from_pretrained(train_tokenizer(recipe))
    with torch.no_grad():
        measures, picture = task.evaluate()
    assert measures["psnr"] > before + 2
    assert 1 <= measures["codes_used"] <= 16
    assert picture.size[0] > 16 * 32


@pytest.mark.parametrize("model", [{"quantizer": "kl"}, {"codebook_l2_norm": False}])
def test_other_quantisers_train_too(model, tokenizer_values):
    tokenizer_values["model"] |= model
    tokenizer_values["data"]["horizontal_flip"] = True
    tokenizer_values["loss"] = {"quantizer_weight": 1e-6}
    assert (train_tokenizer(build_recipe(TokenizerRecipe, tokenizer_values)) / "model.safetensors").is_file()


def test_a_variant_is_a_starting_point(tokenizer_values):
    tokenizer_values["model"] = {"variant": "bl64_vq8k", "image_size": 32, "patch_size": 4}
    config = tokenizer_config(build_recipe(TokenizerRecipe, tokenizer_values))
    assert isinstance(config, TiTokConfig)
    assert (config.codebook_size, config.image_size, config.decoder_patch_size) == (8192, 32, 4)


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"patchsize": 4}, "patchsize is not a field of TiTokConfig"),
        ("model", {"patch_size": 5}, "image_size 32 is not a multiple of encoder_patch_size 5"),
        ("model", {"image_size": 64}, "data.image_size is 32, but the model's is 64"),
        ("model", {"decoder_head": "proxy_codes"}, 'decoder_head is "proxy_codes"'),
        ("optimization", {"batch_size": 0}, "batch_size is 0; it must be larger than 0"),
        ("optimization", {"learning_rte": 1}, "no key 'optimization.learning_rte'. Did you mean 'learning_rate'"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_anything_is_written(group, change, message, tokenizer_values):
    tokenizer_values[group] |= change
    with pytest.raises(ValueError, match=message):
        tokenizer_config(build_recipe(TokenizerRecipe, tokenizer_values))


def test_the_bundled_recipe_is_valid():
    config = tokenizer_config(load_recipe(TokenizerRecipe, "fashion_tokenizer"))
    assert (config.image_size, config.num_latent_tokens, config.codebook_size) == (32, 32, 1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fashion_tokeniser"], "There is no recipe 'fashion_tokeniser'"),
        (["fashion_tokenizer", "--set", "optimization.steps=1"], "no key 'optimization.steps'"),
        (["fashion_tokenizer", "--set", "data.source=/nowhere", "--set", "output_dir={}"], "/nowhere does not exist"),
    ],
)
def test_command_answers_mistakes_with_one_line(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        main([argument.format(tmp_path / "run") for argument in arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_recipe_of_no_trainer_is_refused(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("kind: poem\n")
    with pytest.raises(SystemExit):
        main([str(path)])
    assert "kind: poem" in capsys.readouterr().err


def test_recipe_error_is_a_value_error():
    assert issubclass(RecipeError, ValueError)
