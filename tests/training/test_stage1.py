"""titok_hf.training.stage1: the teacher's codes are learnt, computed in the run or read; misfits are refused."""

import math

import pytest
import torch

from titok_hf import TiTokModel
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.pretokenize import PretokenizeSettings, pretokenize
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.training.recipes import RecipeError
from titok_hf.training.start import make_accelerator, make_task
from training_runs import entries_of, equal, recipe_of, series, trained, weights_in


@pytest.fixture(scope="module")
def codes(picture_folder, teacher, tmp_path_factory):
    """What `titok-hf pretokenize` makes of the training pictures with the teacher."""
    folder = tmp_path_factory.mktemp("codes")
    encoder = ImageEncoder(str(teacher), image_size=32)
    pretokenize(str(picture_folder), folder, encoder, PretokenizeSettings(enlarge=True), workers=0)
    return folder


def task_of(values: dict):
    recipe = recipe_of(values)
    return make_task(recipe, make_accelerator(recipe))


def test_codes_that_were_made_before_teach_the_same(codes, stage1_values, tmp_path):
    stage1_values["data"]["resize_mode"] = "resize"
    taught = trained(stage1_values)
    read = trained(stage1_values, data={"codes": str(codes)}, output_dir=str(tmp_path / "read"))
    assert equal(read, taught)
    assert len(set(series(stage1_values, "loss"))) == 4  # and something was learnt


def test_training_reduces_the_loss_and_nothing_of_the_teacher_is_saved(stage1_values, teacher):
    stage1_values["intervals"] |= {"log_every": 60, "evaluate_every": 30, "checkpoint_every": 60}
    trained(stage1_values, optimization={"num_steps": 60, "ema_decay": 0.9})
    losses = series(stage1_values, "test/proxy_code_loss")
    assert losses[-1] < losses[0] < 1.2 * math.log(16)
    last = entries_of(stage1_values)[-1]
    expected = {"proxy_code_loss", "accuracy", "psnr", "ssim", "codes_used", "codebook_perplexity"}
    assert {f"test/{name}" for name in expected} <= last.keys()
    assert 0 < last["test/accuracy"] <= 1
    model = TiTokModel.from_pretrained(f"{stage1_values['output_dir']}/model")
    assert (model.config.decoder_head, model.config.proxy_codebook_size) == ("proxy_codes", 16)
    assert not [name for name in weights_in(stage1_values["output_dir"]) if "pixel_decoder" in name]


def test_the_loss_is_cross_entropy_plus_the_quantiser_s(stage1_values):
    stage1_values["loss"] = {"quantizer_weight": 0.25}
    trained(stage1_values, intervals={"log_every": 1}, optimization={"num_steps": 2})
    for entry in entries_of(stage1_values)[:2]:
        assert entry["loss"] == pytest.approx(entry["proxy_code_loss"] + 0.25 * entry["quantizer_loss"], rel=1e-5)


def test_the_evaluation_is_that_of_the_teacher_s_codes(stage1_values, teacher):
    task = task_of(stage1_values)
    with torch.no_grad():
        measures, _ = task.evaluate()
        images = task.test_images.float() / 255
        codes = MaskGitVQGANModel.from_pretrained(teacher).eval().encode(images).codes
        logits = task.model.eval()(images).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())
    assert measures["proxy_code_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert measures["accuracy"] == pytest.approx((logits.argmax(-1) == codes).float().mean().item(), abs=1e-6)


def test_unused_codes_move_where_the_recipe_says_so(stage1_values):
    stage1_values["loss"] = {"reinitialize_codes": True}
    changes = {"optimization": {"num_steps": 2, "learning_rate": 1e-12}}
    first = task_of(stage1_values).model.quantizer.codebook.weight.detach().clone()
    moved = trained(stage1_values, **changes)["quantizer.codebook.weight"]
    assert (moved - first).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"patch_size": 16}, "has 16 pixels a side, but a code of the teacher .* stands for 8"),
        ("model", {"proxy_codebook_size": 32}, "has 16 codes; the model must have decoder_head: proxy_codes"),
        ("model", {"decoder_head": "pixels"}, "has 16 codes; the model must have decoder_head: proxy_codes"),
        ("data", {"codes": "{codes}", "horizontal_flip": True}, "Leave both out"),
        ("data", {"codes": "/nowhere"}, "data.codes: .*nowhere"),
        ("data", {"codes": "{codes}", "test_split": None}, "data.codes .*test_split"),
    ],
)
def test_what_does_not_fit_is_refused(group, change, message, stage1_values, codes):
    change = {key: value.format(codes=codes) if isinstance(value, str) else value for key, value in change.items()}
    stage1_values["intervals"]["num_test_images"] = 4
    stage1_values[group] |= change
    with pytest.raises(RecipeError, match=message):
        task_of(stage1_values)


def test_codes_of_another_size_of_squares_are_refused(stage1_values, picture_folder, teacher, tmp_path):
    encoder = ImageEncoder(str(teacher), image_size=16)
    pretokenize(str(picture_folder), tmp_path / "codes", encoder, PretokenizeSettings(enlarge=True), workers=0)
    stage1_values["data"]["codes"] = str(tmp_path / "codes")
    with pytest.raises(RecipeError, match="data.codes: Row 0 has 4 codes"):
        task_of(stage1_values)
