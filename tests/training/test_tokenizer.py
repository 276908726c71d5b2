"""titok_hf.training.tokenizer: which model a recipe makes, where stage 2 begins, and what stays frozen in it."""

import pytest
import torch
from safetensors.torch import load_file

from titok_hf import TiTokConfig, TiTokModel
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.training.configs import TokenizerRecipe
from titok_hf.training.recipes import RecipeError, build_recipe, load_recipe
from titok_hf.training.start import make_accelerator, make_task
from titok_hf.training.tokenizer import tokenizer_config, with_pixel_decoder
from training_runs import recipe_of, trained, weights_in


def config_of(values: dict) -> TiTokConfig:
    recipe = build_recipe(TokenizerRecipe, values)
    return tokenizer_config(recipe.model, recipe.data.image_size)


def task_of(values: dict):
    recipe = recipe_of(values)
    return make_task(recipe, make_accelerator(recipe))


def test_a_variant_is_a_starting_point(tokenizer_values):
    tokenizer_values["model"] = {"variant": "bl64_vq8k", "image_size": 32, "patch_size": 4}
    config = config_of(tokenizer_values)
    assert (config.codebook_size, config.image_size, config.decoder_patch_size) == (8192, 32, 4)


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"patchsize": 4}, "patchsize is not a field of TiTokConfig"),
        ("model", {"patch_size": 5}, "image_size 32 is not a multiple of encoder_patch_size 5"),
        ("model", {"image_size": 64}, "data.image_size is 32, but that of the model's is 64"),
        ("model", {"variant": "xl1"}, "xl1"),
        ("optimization", {"batch_size": 0}, "batch_size is 0; it must be larger than 0"),
        ("optimization", {"learning_rte": 1}, "no key 'optimization.learning_rte'. Did you mean 'learning_rate'"),
    ],
)
def test_recipes_that_cannot_work_are_refused(group, change, message, tokenizer_values):
    tokenizer_values[group] |= change
    with pytest.raises(RecipeError, match=message):
        config_of(tokenizer_values)


def test_a_two_stage_model_is_no_single_stage_one(tokenizer_values):
    tokenizer_values["model"]["decoder_head"] = "proxy_codes"
    with pytest.raises(RecipeError, match='decoder_head is "proxy_codes", which is trained in two stages'):
        task_of(tokenizer_values)


def test_a_teacher_s_images_are_cut_into_whole_codes(vqgan_values):
    vqgan_values["model"]["channel_multipliers"] = [1] * 7
    with pytest.raises(RecipeError, match="image_size is 32, which is no multiple of the 64 pixels"):
        task_of(vqgan_values)


def test_attention_is_the_recipe_s(tokenizer_values):
    tokenizer_values["optimization"]["attn_implementation"] = "eager"
    assert task_of(tokenizer_values).model.config._attn_implementation == "eager"


def test_the_bundled_recipe_is_valid():
    recipe = load_recipe(TokenizerRecipe, "fashion_tokenizer")
    config = tokenizer_config(recipe.model, recipe.data.image_size)
    assert (config.image_size, config.num_latent_tokens, config.codebook_size) == (32, 32, 1024)


def test_stage_2_begins_with_the_weights_of_both_models(stage1_tokenizer, teacher):
    """And with nothing else: every weight of the joint model comes from one of the two files, bit for bit."""
    model = with_pixel_decoder(str(stage1_tokenizer), str(teacher))
    stage1, vqgan = (load_file(folder / "model.safetensors") for folder in (stage1_tokenizer, teacher))
    expected = dict(stage1)
    for name, value in vqgan.items():
        if name.startswith("decoder."):
            expected[f"pixel_decoder.{name}"] = value
        elif name == "quantizer.codebook.weight":
            expected["pixel_decoder.codebook.weight"] = value
    joint = model.state_dict()
    assert joint.keys() == expected.keys()
    assert all(torch.equal(joint[name], expected[name]) for name in joint)


@torch.no_grad()
def test_stage_2_begins_where_the_teacher_decodes_sure_codes(stage1_tokenizer, teacher):
    """A model that is sure of its codes draws what the teacher draws of them."""
    model = with_pixel_decoder(str(stage1_tokenizer), str(teacher)).eval()
    vqgan = MaskGitVQGANModel.from_pretrained(teacher).eval()
    codes = torch.randint(16, (2, 16))
    sure = torch.nn.functional.one_hot(codes, 16).float() * 1e4
    expected = vqgan.decode(codes=codes).pixel_values
    assert torch.allclose(model.pixel_decoder(sure), expected, atol=1e-5)


def test_stage_2_moves_the_decoders_and_nothing_else(stage2_values, stage1_tokenizer, teacher):
    before = with_pixel_decoder(str(stage1_tokenizer), str(teacher)).state_dict()
    trained(stage2_values, optimization={"ema_decay": 0.5})
    after = weights_in(stage2_values["output_dir"])
    assert after.keys() == before.keys()
    still = {name for name in after if torch.equal(after[name], before[name])}
    frozen = {name for name in after if name.startswith(("encoder.", "quantizer."))}
    assert len(frozen) > 10
    assert frozen <= still
    assert not {name for name in still - frozen if before[name].is_floating_point()}
    model = TiTokModel.from_pretrained(f"{stage2_values['output_dir']}/model")
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).pixel_values.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("tokenizer", "tokenizer is '/nowhere', and there is no such folder. Train it first"),
        ("teacher", "teacher is '/nowhere', and there is no such folder. Train it first"),
    ],
)
def test_models_that_are_not_there_are_named(key, message, stage2_values):
    with pytest.raises(RecipeError, match=message):
        task_of(stage2_values | {key: "/nowhere"})


def test_a_finished_tokenizer_is_no_stage_1(stage2_values, stage1_tokenizer, teacher, tmp_path):
    with_pixel_decoder(str(stage1_tokenizer), str(teacher)).save_pretrained(tmp_path / "finished")
    with pytest.raises(RecipeError, match="does not end in proxy codes, so it is no stage-1 model"):
        task_of(stage2_values | {"tokenizer": str(tmp_path / "finished")})


def test_a_teacher_with_other_codes_does_not_fit(stage2_values, teacher, tmp_path):
    config = MaskGitVQGANModel.from_pretrained(teacher).config
    config.codebook_size = 32
    MaskGitVQGANModel(config).save_pretrained(tmp_path / "other")
    with pytest.raises(RecipeError, match="teacher .*other does not fit tokenizer"):
        task_of(stage2_values | {"teacher": str(tmp_path / "other")})


def test_stage_2_on_images_of_another_size_is_refused(stage2_values):
    stage2_values["data"]["image_size"] = 64
    with pytest.raises(RecipeError, match="data.image_size is 64"):
        task_of(stage2_values)
