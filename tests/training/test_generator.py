"""The generator trainer: from a tokenizer and pictures to a pipeline that makes pictures."""

import pytest
import torch

from tiny_pipeline import tiny_tokenizer
from titok_hf import TiTokPipeline
from titok_hf.training.configs import GeneratorRecipe
from titok_hf.training.generator import GeneratorTask, train_generator
from titok_hf.training.loop import make_accelerator
from titok_hf.training.recipes import RecipeError, build_recipe, load_recipe


@pytest.fixture
def generator_values(tokenizer_values, tmp_path) -> dict:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    values = tokenizer_values | {"kind": "generator", "tokenizer": str(tmp_path / "tokenizer")}
    values["model"] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "dropout": 0.0,
    }
    values["sampler"] = {"num_inference_steps": 3, "guidance_scale": 2.0, "guidance_schedule": "linear"}
    return values


@pytest.mark.parametrize("architecture", ["vit", "uvit"])
def test_a_run_ends_in_a_pipeline_with_the_recipe_s_sampler(architecture, generator_values):
    generator_values["model"]["architecture"] = architecture
    pipe = TiTokPipeline.from_pretrained(train_generator(build_recipe(GeneratorRecipe, generator_values)))
    assert pipe.scheduler.config.num_inference_steps == 3
    assert pipe.scheduler.config.guidance_schedule == "linear"
    assert pipe.id2label[0] == "0_t_shirt_top"
    pipe.set_progress_bar_config(disable=True)
    assert pipe("1_trouser", num_images_per_class=2).images[1].size == (32, 32)
    # Pictures of 28 pixels were padded in training, and so they are in the pipeline.
    assert pipe.image_processor.do_enlarge is False


def test_training_reduces_the_loss(generator_values):
    generator_values["optimization"] |= {"num_steps": 80, "ema_decay": 0.9, "learning_rate": 3e-2}
    generator_values["cadence"] = {"log_every": 40, "evaluate_every": 80, "checkpoint_every": 80}
    recipe = build_recipe(GeneratorRecipe, generator_values)
    task = GeneratorTask(recipe, make_accelerator(recipe))
    trained = TiTokPipeline.from_pretrained(train_generator(recipe)).transformer
    with torch.no_grad():
        before = task.evaluate()[0]
        task.model.load_state_dict(trained.state_dict())
        after = task.evaluate()[0]
    assert after["loss"] < before["loss"] - 0.3
    assert after["accuracy"] > before["accuracy"]


def test_codes_are_made_once_and_kept(generator_values, tmp_path):
    recipe = build_recipe(GeneratorRecipe, generator_values)
    task = GeneratorTask(recipe, make_accelerator(recipe))
    codes = task.dataset.tensors[0]
    assert codes.shape == (20, 8) and codes.dtype == torch.int64
    written = (tmp_path / "run/codes_train.safetensors").stat().st_mtime_ns
    again = GeneratorTask(recipe, make_accelerator(recipe))
    assert torch.equal(again.dataset.tensors[0], codes)
    assert (tmp_path / "run/codes_train.safetensors").stat().st_mtime_ns == written


def test_labels_are_dropped_at_the_given_rate(generator_values):
    generator_values["loss"] = {"class_dropout": 1.0}
    recipe = build_recipe(GeneratorRecipe, generator_values)
    task = GeneratorTask(recipe, make_accelerator(recipe))
    seen = []
    task.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["class_labels"]), with_kwargs=True
    )
    task.loss(task.model, list(task.dataset[:6]))
    assert seen[0].tolist() == [task.model.null_class_label] * 6


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [({"quantizer": "kl"}, "is a KL model"), ({"image_size": 16}, "data.image_size is 32, but tokenizer .* takes 16")],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, message, generator_values, tmp_path):
    tiny_tokenizer(**tokenizer).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(RecipeError, match=message):
        train_generator(build_recipe(GeneratorRecipe, generator_values))


def test_the_bundled_recipe_is_valid():
    assert load_recipe(GeneratorRecipe, "fashion_generator").model["architecture"] == "vit"
