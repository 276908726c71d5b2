"""Configurations of the original, of all ages, to ours and back."""

import copy
from pathlib import Path

import pytest

from golden_checkpoints import MANIFESTS, manifest
from titok_hf import MaskGitTransformer1DModel, TiTokConfig
from titok_hf.configuration_maskgit import MASKGIT_VARIANTS
from titok_hf.original import (
    generator_config,
    original_generator_config,
    original_tokenizer_config,
    scheduler_config,
    tokenizer_config,
)
from titok_hf.original.configs import is_original_config, network_fields, resolve_references
from titok_hf.scheduling_maskgit import MaskGitScheduler

TOKENIZERS = [name for name in MANIFESTS if name.startswith("tokenizer_")]
GENERATORS = ["l32", "b64", "s128"]


@pytest.fixture
def l32():
    return copy.deepcopy(manifest("generator_l32")["config"])


@pytest.fixture
def vq_model(l32):
    return l32["model"]["vq_model"]


def same_network(one: TiTokConfig, other: TiTokConfig) -> bool:
    return network_fields(one) == network_fields(other)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_are_the_published_variants(name):
    variant = name.removeprefix("tokenizer_")
    stage_1 = {"pixel_decoder": None} if variant.endswith("_stage1") else {}
    expected = TiTokConfig.from_variant(variant.removesuffix("_stage1"), **stage_1)
    assert same_network(tokenizer_config(manifest(name)["config"]), expected)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_come_back(name):
    original = manifest(name)["config"]
    exported = original_tokenizer_config(tokenizer_config(original))
    wanted = {"quantize_mode": "vq", "is_legacy": True} | original["model"]["vq_model"]
    assert exported["model"]["vq_model"] == wanted
    exported_preprocessing, preprocessing = (each["dataset"]["preprocessing"] for each in (exported, original))
    assert exported_preprocessing == {"crop_size": preprocessing["crop_size"]}
    assert same_network(tokenizer_config(exported), tokenizer_config(original))


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_the_published_variants(name):
    expected = {"codebook_size": 4096, "num_classes": 1000} | MASKGIT_VARIANTS[name]
    assert generator_config(manifest(f"generator_{name}")["config"]) == expected


@pytest.mark.parametrize("name", GENERATORS)
def test_sampler_settings_are_the_published_ones(name):
    settings = scheduler_config(manifest(f"generator_{name}")["config"])
    assert MaskGitScheduler(**settings).config == MaskGitScheduler.from_variant(name).config


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_come_back(name):
    original = manifest(f"generator_{name}")["config"]
    ours, settings = generator_config(original), scheduler_config(original)
    exported = original_generator_config(ours, settings)
    assert generator_config(exported) == ours
    assert scheduler_config(exported) == settings
    wanted = resolve_references(original)["model"]["generator"]
    if name == "s128":  # its dropout is configured and not used
        wanted |= {"dropout": 0.0, "attn_drop": 0.0}
    assert exported["model"]["generator"] == wanted


@pytest.mark.parametrize("schedule", ["constant", "linear", "power-cosine"])
@pytest.mark.parametrize("scale", [0, 0.1, 1.1, 4.5, 2.3])
def test_guidance_scales_come_back_to_the_digit(l32, schedule, scale):
    section = l32["model"]["generator"]
    section |= {"guidance_decay": schedule, "guidance_scale": scale}
    settings = scheduler_config(l32)
    assert settings["guidance_scale"] == (scale if schedule == "power-cosine" else float(str(scale + 1)[:3]))
    exported = original_generator_config(generator_config(l32), MaskGitScheduler(**settings).config)
    no_guidance = 1 if schedule == "power-cosine" else 0
    assert exported["model"]["generator"]["guidance_scale"] == max(scale, no_guidance)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_guide_tells_both_numbers_of_a_guidance_scale(name):
    section = manifest(f"generator_{name}")["config"]["model"]["generator"]
    ours = scheduler_config(manifest(f"generator_{name}")["config"])["guidance_scale"]
    guide = (Path(__file__).parents[2] / "docs" / "original_checkpoints.md").read_text(encoding="utf-8")
    row = f"| `{name}` | {section['guidance_decay']} | {section['guidance_scale']} | {ours} |"
    assert row in guide


def test_a_reference_takes_the_type_of_what_it_refers_to(l32):
    resolved = resolve_references(l32)
    assert resolved["model"]["generator"]["image_seq_len"] == 32
    assert l32["model"]["generator"]["image_seq_len"].startswith("${")  # the argument stays as it was


def test_references_inside_text_lists_and_chains():
    config = {"a": {"b": 3}, "c": "${a.b}", "d": ["${c}", "run-${a.b}-${c}"]}
    assert resolve_references(config)["d"] == [3, "run-3-3"]


@pytest.mark.parametrize("value", ["${model.nothing}", "${oc.env:HOME}"])
def test_references_to_nothing_are_refused(l32, value):
    l32["model"]["generator"]["image_seq_len"] = value
    with pytest.raises(ValueError, match="refers to"):
        generator_config(l32)


def test_references_in_a_circle_are_refused():
    with pytest.raises(ValueError, match="to itself: b -> a -> b"):
        resolve_references({"a": "${b}", "b": "${a}"})


@pytest.mark.parametrize("leaf", ["x", ""])
def test_a_kilobyte_of_references_does_not_grow_into_gigabytes(l32, leaf):
    bomb = {"v0": leaf} | {f"v{n}": f"${{v{n - 1}}}${{v{n - 1}}}" for n in range(1, 40)}
    network = generator_config(l32)
    assert generator_config(l32 | bomb) == network  # nothing of a network refers to it
    with pytest.raises(ValueError, match="grow into more than"):
        resolve_references(bomb)
    l32["model"]["generator"]["image_seq_len"] = "${v39}"
    with pytest.raises(ValueError, match="grow into more than"):
        generator_config(l32 | bomb)


def test_a_long_chain_of_references_is_refused(l32):
    chain = {"v0": 4} | {f"v{n}": f"${{v{n - 1}}}" for n in range(1, 5000)}
    l32["model"]["generator"]["image_seq_len"] = "${v4999}"
    with pytest.raises(ValueError, match="into chains of more than"):
        generator_config(l32 | chain)


def test_old_tokenizer_configs_lack_keys(l32, vq_model):
    full = tokenizer_config(l32)
    for key in ("finetune_decoder", "vit_enc_patch_size", "vit_dec_patch_size", "commitment_cost"):
        vq_model.pop(key)
    del l32["experiment"], l32["dataset"]
    assert "quantize_mode" not in vq_model and "is_legacy" not in vq_model
    assert same_network(tokenizer_config(l32), full)


def test_old_generator_configs_lack_keys(l32):
    full = generator_config(l32)
    generator = l32["model"]["generator"]
    for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        del generator[key]
    generator["mask_schedule_strategy"] = "arccos"
    assert generator_config(l32) == full


def test_another_image_size_is_read(l32):
    l32["dataset"]["preprocessing"]["crop_size"] = 512
    assert tokenizer_config(l32).image_size == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vit_enc_model_size": "huge"}, "vit_enc_model_size is 'huge'.*small, base, large"),
        ({"quantize_mode": "fsq"}, "quantize_mode is 'fsq'.*vq, vae"),
        ({"is_legacy": False}, "finetune_decoder with is_legacy off"),
        ({"quantize_mode": "vae"}, "finetune_decoder with quantize_mode vae"),
        ({"token_size": "twelve"}, "token_size|codebook_dim"),
    ],
)
def test_configs_that_cannot_work_are_refused(l32, vq_model, change, message):
    vq_model |= change
    with pytest.raises(ValueError, match=message):
        tokenizer_config(l32)


def test_configs_of_other_projects_are_refused(l32, vq_model):
    with pytest.raises(ValueError, match="has no model.vq_model. Its keys: model_type, hidden_size"):
        tokenizer_config({"model_type": "bert", "hidden_size": 768})
    with pytest.raises(ValueError, match="has no model.generator"):
        generator_config(manifest("tokenizer_bl64_vq8k")["config"])
    for key in ("vit_enc_model_size", "vit_dec_model_size", "token_size"):
        del vq_model[key]
    with pytest.raises(ValueError, match="lacks token_size, vit_enc_model_size, vit_dec_model_size"):
        tokenizer_config(l32)


def test_only_nested_configs_count_as_original(l32):
    assert is_original_config(l32)
    assert not is_original_config({"model_type": "titok"})
    assert not is_original_config({"model": "vq_model"})
    assert not is_original_config(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_hidden_size": 640, "encoder_num_attention_heads": 10}, r"encoder has .*\(640, 24, 10\)"),
        ({"mlp_ratio": 2}, "cannot say mlp_ratio 2"),
        ({"legacy_latent_layout": False}, "cannot say legacy_latent_layout False"),
    ],
)
def test_models_of_another_design_cannot_be_exported(change, message):
    with pytest.raises(ValueError, match=message):
        original_tokenizer_config(TiTokConfig.from_variant("l32", **change))


def test_a_model_is_exported_from_its_own_config():
    model = MaskGitTransformer1DModel(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    ours = generator_config(original_generator_config(model.config))
    assert ours == {name: model.config[name] for name in ours}
