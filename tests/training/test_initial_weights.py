"""`init_from`: a new run of every kind starts from given weights, if all of them fit."""

import pytest
import torch

from titok_hf.training.recipes import RecipeError
from titok_hf.training.start import train
from training_runs import cut_off, equal, forget_accelerate, recipe_of, trained, weights_in

NO_STEP = {"learning_rate": 1e-12, "end_learning_rate": 0.0, "num_steps": 1, "weight_decay": 0.0}


@pytest.mark.parametrize("kind", ["tokenizer", "stage1", "stage2", "vqgan", "generator"])
def test_every_kind_starts_from_weights(kind, values_of, tmp_path):
    values = values_of(kind)
    first = trained(values, optimization={"num_steps": 2}, intervals={"evaluate_every": 9, "checkpoint_every": 9})
    changes = {"seed": 5, "output_dir": str(tmp_path / "second"), "optimization": NO_STEP}
    if kind != "generator":
        changes["loss"] = {"reinitialize_codes": False}
    second = trained(values, init_from=values["output_dir"] + "/model", **changes)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], atol=1e-6), name


def test_weights_of_another_shape_are_refused_and_nothing_is_written(tokenizer_values, tmp_path):
    trained(tokenizer_values, optimization={"num_steps": 1})
    larger = tokenizer_values["model"] | {"decoder_num_hidden_layers": 2, "num_latent_tokens": 8}
    values = tokenizer_values | {"model": larger, "output_dir": str(tmp_path / "second")}
    message = "init_from is .*it lacks decoder.layers.1.*and .* more; other shapes have .*latent"
    with pytest.raises(RecipeError, match=message):
        trained(values, init_from=tokenizer_values["output_dir"] + "/model")
    assert not (tmp_path / "second").exists()


def test_a_folder_without_a_model_is_refused(tokenizer_values, tmp_path):
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecipeError, match="init_from is"):
            trained(tokenizer_values, init_from=str(source))


def test_a_resumed_run_does_not_need_them(tokenizer_values, tmp_path):
    first = tokenizer_values | {"output_dir": str(tmp_path / "first")}
    trained(first, optimization={"num_steps": 1})
    values = tokenizer_values | {"init_from": str(tmp_path / "first" / "model")}
    whole = trained(values, output_dir=str(tmp_path / "whole"))
    cut_off(values, after_step=5)
    # `cut_off` starts the loop alone, without the weights; what counts is that they are not looked for again.
    (tmp_path / "first" / "model").rename(tmp_path / "gone")
    forget_accelerate()
    train(recipe_of(values))
    assert weights_in(values["output_dir"]).keys() == whole.keys()
    assert not equal(weights_in(values["output_dir"]), weights_in(tmp_path / "whole"))
