"""titok_hf.training.start and its command: the task of each kind, and one clear line before anything is written."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.training.configs import Stage2Recipe
from titok_hf.training.recipes import RecipeError
from titok_hf.training.start import load_training_recipe, make_accelerator, make_task, train
from training_runs import entries_of, recipe_of, train_command, trained


@pytest.mark.parametrize(
    ("name", "model", "has_discriminator"),
    [
        ("tokenizer", TiTokModel, False),
        ("gan", TiTokModel, True),
        ("stage1", TiTokModel, False),
        ("stage2", TiTokModel, True),
        ("vqgan", MaskGitVQGANModel, False),
        ("generator", MaskGitTransformer1DModel, False),
    ],
)
def test_a_kind_has_its_task(name, model, has_discriminator, values_of):
    recipe = recipe_of(values_of(name))
    task = make_task(recipe, make_accelerator(recipe))
    assert isinstance(task.model, model)
    assert (task.discriminator is not None) is has_discriminator


def test_a_recipe_file_says_its_kind(stage2_values, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(stage2_values))
    recipe = load_training_recipe(path, ["optimization.learning_rate=1e-5", "seed=7"])
    assert isinstance(recipe, Stage2Recipe)
    assert (recipe.optimization.learning_rate, recipe.seed) == (1e-5, 7)


@pytest.mark.parametrize("text", ["kind: poem\n", "seed: 1\n", ""])
def test_a_recipe_of_no_trainer_is_refused(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match="kind: .*It must be one of tokenizer, tokenizer_stage1, .*generator"):
        load_training_recipe(tmp_path / "recipe.yaml")


def test_the_seed_decides_the_first_weights(tokenizer_values):
    def first_weights(seed: int) -> torch.Tensor:
        recipe = recipe_of(tokenizer_values, seed=seed)
        return make_task(recipe, make_accelerator(recipe)).model.encoder.latent_tokens

    assert torch.equal(first_weights(3), first_weights(3))
    assert not torch.equal(first_weights(3), first_weights(4))


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        (
            "intervals",
            {"trackers": ["tensorboard", "tensorbord"]},
            "intervals.trackers names 'tensorbord', which",
        ),
        ("optimization", {"mixed_precision": "fp16"}, 'mixed_precision is "fp16", which a CPU does not train in'),
        ("data", {"source": "/nowhere/at/all"}, "/nowhere/at/all"),
        ("data", {"image_size": 33}, "image_size"),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_is_written(group, change, message, tokenizer_values):
    with pytest.raises(RecipeError, match=message):
        train(recipe_of(tokenizer_values, **{group: change}))
    assert not Path(tokenizer_values["output_dir"]).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fashion_tokeniser"], "There is no recipe 'fashion_tokeniser'"),
        (["fashion_tokenizer", "--set", "optimization.steps=1"], "no key 'optimization.steps'"),
        (
            ["fashion_tokenizer", "--set", "data.source=/nowhere", "--set", "output_dir={}", "--set", "loss={{}}"],
            "/nowhere does not exist",
        ),
    ],
)
def test_the_command_answers_mistakes_with_one_line(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        train_command([argument.format(tmp_path / "run") for argument in arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_says_where_the_model_is(tokenizer_values, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tokenizer_values))
    train_command([str(path), "--set", "optimization.num_steps=1"])
    assert capsys.readouterr().out.endswith(f"The model is in {tokenizer_values['output_dir']}/model\n")
    assert TiTokModel.from_pretrained(f"{tokenizer_values['output_dir']}/model")


def test_a_resumed_run_finds_its_data_as_they_were(tokenizer_values, picture_folder, tmp_path):
    source = shutil.copytree(picture_folder / "train", tmp_path / "source")
    values = tokenizer_values | {"data": tokenizer_values["data"] | {"source": str(source), "test_split": None}}
    values["intervals"] |= {"num_test_images": 4, "log_every": 1}
    few, more = values["optimization"] | {"num_steps": 2}, values["optimization"] | {"num_steps": 3}
    trained(values, optimization=few)
    with pytest.raises(RecipeError, match="num_test_images was 4 when this run began, and is 12.* Set it to 4"):
        trained(values, optimization=more, intervals={"num_test_images": 12})
    picture = next(source.rglob("*.png"))
    picture.rename(tmp_path / "away.png")
    with pytest.raises(RecipeError, match="training data changed .*: it had 20 rows, and now it has 19 rows"):
        trained(values, optimization=more)
    (tmp_path / "away.png").rename(picture)
    trained(values, optimization=more, data={"num_workers": 1})
    assert [entry["step"] for entry in entries_of(values) if "loss" in entry] == [1, 2, 3]
