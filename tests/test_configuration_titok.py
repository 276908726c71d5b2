"""TiTokConfig: published variants, free sizes, refusal of sizes that do not fit."""

import pytest

from titok_hf import MaskGitVQGANConfig, TiTokConfig
from titok_hf.configuration_titok import TITOK_VARIANTS

# Name: encoder and decoder (width, layers, heads), tokens, quantiser, codebook, token size, l2 norm, image size, head.
PUBLISHED = {
    "l32": ((1024, 24, 16), (1024, 24, 16), 32, "vq", 4096, 12, True, 256, "proxy_codes"),
    "b64": ((768, 12, 12), (768, 12, 12), 64, "vq", 4096, 12, True, 256, "proxy_codes"),
    "s128": ((512, 8, 8), (512, 8, 8), 128, "vq", 4096, 12, True, 256, "proxy_codes"),
    "bl64_vq8k": ((768, 12, 12), (1024, 24, 16), 64, "vq", 8192, 64, False, 256, "pixels"),
    "bl128_vq8k": ((768, 12, 12), (1024, 24, 16), 128, "vq", 8192, 64, False, 256, "pixels"),
    "sl256_vq8k": ((512, 8, 8), (1024, 24, 16), 256, "vq", 8192, 64, False, 256, "pixels"),
    "ll32_vae_c16": ((1024, 24, 16), (1024, 24, 16), 32, "kl", None, 16, None, 256, "pixels"),
    "bl64_vae_c16": ((768, 12, 12), (1024, 24, 16), 64, "kl", None, 16, None, 256, "pixels"),
    "bl128_vae_c16": ((768, 12, 12), (1024, 24, 16), 128, "kl", None, 16, None, 256, "pixels"),
    "l64_512": ((1024, 24, 16), (1024, 24, 16), 64, "vq", 4096, 12, True, 512, "proxy_codes"),
    "b128_512": ((768, 12, 12), (768, 12, 12), 128, "vq", 4096, 12, True, 512, "proxy_codes"),
    "one_d_piece_s256": ((512, 8, 8), (512, 8, 8), 256, "vq", 4096, 12, True, 256, "proxy_codes"),
    "one_d_piece_b256": ((768, 12, 12), (768, 12, 12), 256, "vq", 4096, 12, True, 256, "proxy_codes"),
    "one_d_piece_l256": ((1024, 24, 16), (1024, 24, 16), 256, "vq", 4096, 12, True, 256, "proxy_codes"),
}


def test_every_published_model_is_a_variant_and_no_other():
    assert set(TITOK_VARIANTS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_variant_has_the_published_sizes(name):
    config = TiTokConfig.from_variant(name)
    encoder, decoder, tokens, quantizer, codebook_size, codebook_dim, l2_norm, image_size, head = PUBLISHED[name]
    for side, sizes in (("encoder", encoder), ("decoder", decoder)):
        fields = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        assert tuple(getattr(config, f"{side}_{field}") for field in fields) == sizes
    assert (config.num_latent_tokens, config.quantizer, config.codebook_dim) == (tokens, quantizer, codebook_dim)
    assert (config.image_size, config.patch_size, config.decoder_head) == (image_size, 16, head)
    if quantizer == "vq":
        assert (config.codebook_size, config.codebook_l2_norm) == (codebook_size, l2_norm)
    assert config.tail_drop == name.startswith("one_d_piece")
    # The two-stage models, and only they, end in the MaskGIT-VQGAN's decoder and have the layout of 2024.
    assert (config.pixel_decoder is not None) == config.legacy_latent_layout == (head == "proxy_codes")


def test_overrides_make_the_stage_one_model():
    assert TiTokConfig.from_variant("l32", pixel_decoder=None).pixel_decoder is None


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'l33' is not a TiTok variant.*l32, b64"):
        TiTokConfig.from_variant("l33")


@pytest.mark.parametrize("name", ["s128", "bl64_vae_c16", "bl64_vq8k"])
def test_saved_config_reloads_equal(name, tmp_path):
    config = TiTokConfig.from_variant(name)
    config.save_pretrained(tmp_path)
    reloaded = TiTokConfig.from_pretrained(tmp_path)
    assert reloaded.to_dict() == config.to_dict()
    assert type(reloaded.pixel_decoder) is type(config.pixel_decoder)


def test_patch_sizes_of_the_sides_default_to_the_common_one():
    config = TiTokConfig(image_size=64, patch_size=8, decoder_patch_size=4)
    assert (config.encoder_patch_size, config.decoder_patch_size) == (8, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 30, "patch_size": 4}, "image_size 30 is not a multiple of encoder_patch_size 4"),
        ({"encoder_hidden_size": 100}, "encoder_hidden_size 100 is not a multiple of encoder_num_attention_heads 12"),
        ({"pixel_decoder": {}}, "decoder_head 'pixels' has no use for a pixel_decoder"),
        ({"pixel_decoder": {}, "decoder_head": "proxy_codes", "quantizer": "kl"}, "needs codes"),
        ({"pixel_decoder": {}, "decoder_head": "proxy_codes", "patch_size": 32}, "enlarges 16 times"),
        (
            {"pixel_decoder": MaskGitVQGANConfig(codebook_size=512), "decoder_head": "proxy_codes"},
            "has 512 codes, but proxy_codebook_size is 1024",
        ),
        ({"quantizer": "fsq"}, "quantizer"),
        ({"num_latent_tokens": "32"}, "num_latent_tokens"),
        ({"image_size": True}, "image_size"),
        ({"codebook_l2_norm": "no"}, "codebook_l2_norm"),
        ({"image_size": 0}, "image_size is 0. Use at least 1"),
        ({"decoder_patch_size": -8}, "decoder_patch_size is -8. Use at least 1"),
        ({"encoder_num_attention_heads": 0}, "encoder_num_attention_heads is 0. Use at least 1"),
        ({"codebook_size": 10**12}, "codebook_size is 1000000000000. Use at most 1048576"),
        ({"decoder_num_hidden_layers": 10**9}, "decoder_num_hidden_layers is 1000000000. Use at most 1024"),
        ({"mlp_ratio": 0}, "mlp_ratio is 0.0. Use at least"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan, but a finite number"),
        ({"commitment_cost": -0.25}, "commitment_cost is -0.25"),
        ({"tail_drop": 1}, "tail_drop"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        TiTokConfig(**fields)
