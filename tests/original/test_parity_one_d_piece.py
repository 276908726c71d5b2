"""One-D-Piece (arXiv 2501.10064): its checkpoints load, convert both ways, and compute what its own code computed."""

import copy

import pytest
import torch
from safetensors.torch import load_file

import golden_fill
from golden_checkpoints import figures, manifest, write_checkpoint
from original_pipeline import CONFIG, write_tokenizer
from titok_hf import TiTokConfig, TiTokModel
from titok_hf.original.configs import original_tokenizer_config, tokenizer_config
from titok_hf.original.conversion import convert_tokenizer, export_to_original
from titok_hf.original.released import RELEASED_TOKENIZERS

LENGTHS = (1, 17, 64, 256)
# Where the two nearest codes are closer than this in squared distance, float32 may round to either.
CLEAR_GAP = 1e-4


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_every_size_is_released(size):
    name = f"one_d_piece_{size}256"
    config = tokenizer_config(manifest(f"tokenizer_{name}")["config"])
    assert config.tail_drop and config.to_dict() == TiTokConfig.from_variant(name).to_dict()
    assert RELEASED_TOKENIZERS[name].repository == manifest(f"tokenizer_{name}")["hub_repo"]


def test_the_exported_configuration_is_read_as_one_d_piece_reads_it():
    config = TiTokConfig.from_variant("one_d_piece_s256")
    exported = original_tokenizer_config(config)
    theirs = manifest("tokenizer_one_d_piece_s256")["config"]["model"]
    assert exported["model"]["type"] == theirs["type"]
    assert {key: exported["model"]["vq_model"][key] for key in theirs["vq_model"]} == theirs["vq_model"]
    assert tokenizer_config(exported).to_dict() == config.to_dict()
    without = original_tokenizer_config(TiTokConfig.from_variant("s128"))
    assert "type" not in without["model"] and "strict_length_assertion" not in without["model"]["vq_model"]


def test_tail_drop_of_models_that_one_d_piece_cannot_describe_is_not_exported():
    config = TiTokConfig.from_variant("bl64_vq8k", tail_drop=True)
    with pytest.raises(ValueError, match="tail drop for two-stage models only"):
        original_tokenizer_config(config)


def test_a_configuration_with_another_word_for_tail_drop_is_refused():
    config = copy.deepcopy(manifest("tokenizer_one_d_piece_s256")["config"])
    config["model"]["vq_model"]["strict_length_assertion"] = "no"
    with pytest.raises(ValueError, match="strict_length_assertion is 'no'"):
        tokenizer_config(config)


@torch.no_grad()
def test_a_checkpoint_converts_both_ways(tmp_path):
    """A small one of stage 1, with the settings of One-D-Piece and the names of its tensors."""
    config = copy.deepcopy(CONFIG)
    config["model"]["vq_model"] |= {"is_legacy": True, "strict_length_assertion": False}
    source = write_tokenizer(tmp_path / "theirs", config)
    convert_tokenizer(source, tmp_path / "ours")
    export_to_original(tmp_path / "ours", tmp_path / "back")
    tensors, exported = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert exported.keys() == tensors.keys() and all(torch.equal(exported[key], tensors[key]) for key in tensors)
    codes = torch.arange(3)[None]
    logits = [TiTokModel.from_pretrained(folder).decode(codes=codes).logits for folder in tmp_path.iterdir()]
    assert len(logits) == 3 and all(torch.equal(each, logits[0]) for each in logits)


def close(actual, expected, atol=5e-4, rtol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


@pytest.mark.slow
@torch.no_grad()
def test_the_tokenizer_equals_the_original_at_every_length(tmp_path):
    scalars, arrays = figures("one_d_piece_s256")
    model = TiTokModel.from_pretrained(write_checkpoint("tokenizer_one_d_piece_s256", tmp_path))
    images = golden_fill.image_batch(scalars["image_seed"], 2)
    close(model.encoder(images).last_hidden_state, arrays["z"][:, :, 0].mT, atol=2e-4)
    encoded, codes = model.encode(images), arrays["indices"][:, 0].long()
    clear = arrays["gap"][:, 0] > CLEAR_GAP
    assert clear.float().mean() > 0.99 and torch.equal(encoded.codes[clear], codes[clear])

    index = torch.arange(256)
    tokens = (torch.arange(2)[:, None] * 131 + index * 17 + 7) % model.config.codebook_size
    cases = [(f"decode_{length}", codes[:, :length]) for length in LENGTHS]
    cases += [(f"decode_tokens_{length}", tokens[:, :length]) for length in (17, 256)]
    for case, given in cases:
        decoded = model.decode(codes=given).pixel_values
        close(decoded[:, :, ::16, ::16], arrays[f"{case}_slice_16"])
        close(decoded.mean().item(), scalars[case]["mean"], atol=1e-4)
        close(decoded.std().item(), scalars[case]["std"], atol=1e-4)
