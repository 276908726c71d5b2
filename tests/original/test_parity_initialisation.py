"""Fresh models: every parameter follows the law that the original draws it from.

The figures are mean, standard deviation, minimum and maximum of each parameter of freshly built originals; the last
two tell a uniform law from a normal one, and a normal one from one that is cut.
"""

import json
import math

import pytest
import torch

from golden_checkpoints import GOLDEN
from titok_hf import MaskGitTransformer1DModel, MaskGitVQGANConfig, MaskGitVQGANModel, TiTokConfig, TiTokModel
from titok_hf.original.loading import generator_adapter, maskgit_vqgan_adapter, titok_adapter

MODELS = json.loads((GOLDEN / "initialisation.json").read_text())["models"]


def _tokenizer(**fields):
    config = TiTokConfig.from_variant("s128", **fields)
    state_dict = TiTokModel(config).state_dict()
    return titok_adapter(config, state_dict).to_original(state_dict)


def _pixels_tokenizer():
    one_stage = {"decoder_head": "pixels", "pixel_decoder": None, "codebook_l2_norm": False}
    return _tokenizer(
        num_latent_tokens=64, codebook_size=8192, codebook_dim=64, legacy_latent_layout=False, **one_stage
    )


def _generator(variant):
    model = MaskGitTransformer1DModel.from_variant(
        variant, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    return generator_adapter(model.config, model.state_dict()).to_original(model.state_dict())


FRESH = {
    "tokenizer_s128": _tokenizer,
    "tokenizer_small_vq8k_pixels": _pixels_tokenizer,
    "generator_vit_b64_width256_layers4": lambda: _generator("b64"),
    "generator_uvit_s128_width256_layers4": lambda: _generator("s128"),
}


def assert_same_law(name: str, tensor: torch.Tensor, original: dict[str, float]) -> None:
    """Whether `tensor` may be another draw of the law that `original` describes one draw of."""
    size, std = tensor.numel(), original["std"]
    if std == 0:
        assert torch.equal(tensor, torch.full_like(tensor, original["mean"])), name
        return
    # Of two draws, the deviations lie within three hundredths, or five times what chance moves them by.
    assert tensor.std().item() == pytest.approx(std, rel=0.03 if size > 1000 else 5 / math.sqrt(size)), name
    assert abs(tensor.mean().item()) < 6 * std / math.sqrt(size), name
    if size < 1000:
        return
    largest, largest_of_original = tensor.abs().max().item(), max(original["max"], -original["min"])
    if largest_of_original < 1.8 * std:  # a uniform law ends at 1.73 deviations
        assert largest == pytest.approx(largest_of_original, rel=0.02), name
    else:  # a normal law has no end: among a thousand numbers some lie three deviations out
        assert 2.8 * std < largest < 1.6 * largest_of_original, name


@pytest.mark.parametrize("name", MODELS)
def test_fresh_weights_follow_the_laws_of_the_original(name):
    torch.manual_seed(0)
    fresh, originals = FRESH[name](), MODELS[name]
    assert fresh.keys() == originals.keys()
    for parameter, original in originals.items():
        assert list(fresh[parameter].shape) == original["shape"]
        assert_same_law(parameter, fresh[parameter], original)


def test_fresh_maskgit_vqgan_follows_the_laws_of_the_pixel_decoder():
    """There are figures of its decoder and codebook, as parts of a tokenizer; its encoder is of the same layers."""
    torch.manual_seed(0)
    config = MaskGitVQGANConfig()
    model = MaskGitVQGANModel(config)
    fresh = maskgit_vqgan_adapter(config, model.state_dict()).to_original(model.state_dict())
    for parameter, original in MODELS["tokenizer_s128"].items():
        if parameter.startswith("pixel_"):
            assert_same_law(parameter, fresh[parameter.removeprefix("pixel_")], original)
    for name, module in model.encoder.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            figures = {"mean": 0.0, "std": bound / math.sqrt(3), "min": -bound, "max": bound}
            for parameter in module.parameters():
                assert_same_law(name, parameter, figures)


@torch.no_grad()
def test_weights_missing_in_a_checkpoint_follow_the_laws_and_the_others_stay(tmp_path):
    """Also where every parameter that a module itself holds is there, and only some below it is missing."""
    config = TiTokConfig.from_variant("s128")
    model = TiTokModel(config)
    missing = ("attention.qkv_proj.weight", "quantizer.codebook.weight", "decoder.conv_in.weight", "class_token")
    kept = {name: tensor.fill_(7) for name, tensor in model.state_dict().items() if not name.endswith(missing)}
    model.save_pretrained(tmp_path, state_dict=dict(kept))  # which empties its own
    filled, _ = TiTokModel.from_pretrained(tmp_path, output_loading_info=True)  # which fills gaps, not refuses them
    reloaded = filled.state_dict()
    assert all(torch.equal(reloaded[name], tensor) for name, tensor in kept.items())
    originals = titok_adapter(config, reloaded).to_original(reloaded)
    for parameter, original in MODELS["tokenizer_s128"].items():
        if not torch.equal(originals[parameter], torch.full_like(originals[parameter], 7)):
            assert_same_law(parameter, originals[parameter], original)
    assert len(kept) == len(reloaded) - 2 * 8 - 4
