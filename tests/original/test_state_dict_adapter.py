"""State dicts, original to ours and back: complete, to the bit, and one clear error where they do not fit."""

import pytest
import torch

from golden_checkpoints import MANIFESTS, hollow_tensors, manifest
from titok_hf import MaskGitTransformer1DModel, MaskGitVQGANConfig, MaskGitVQGANModel, TiTokModel
from titok_hf.original import (
    CheckpointMismatchError,
    StateDictAdapter,
    generator_adapter,
    generator_config,
    maskgit_vqgan_adapter,
    titok_adapter,
    tokenizer_config,
)
from titok_hf.original.state_dict_adapter import describe
from titok_hf.original.verification import same_bits


def skeleton_and_adapter(name: str) -> tuple[dict[str, torch.Tensor], StateDictAdapter]:
    """Our state dict on the meta device, built from the original's own configuration, and its adapter."""
    original = manifest(name)
    with torch.device("meta"):
        if original["kind"] == "tokenizer":
            model, make = TiTokModel(tokenizer_config(original["config"])), titok_adapter
        elif original["kind"] == "generator":
            model, make = MaskGitTransformer1DModel(**generator_config(original["config"])), generator_adapter
        else:
            model, make = MaskGitVQGANModel(MaskGitVQGANConfig()), maskgit_vqgan_adapter
    flax = {"flax": True} if "flax" in name else {}
    return model.state_dict(), make(model.config, model.state_dict(), **flax)


@pytest.mark.parametrize("name", MANIFESTS)
def test_names_and_shapes_are_those_of_the_original(name):
    _, adapter = skeleton_and_adapter(name)
    listed = {entry.get("key") or entry["path"]: tuple(entry["shape"]) for entry in manifest(name)["tensors"]}
    for ignored in adapter.ignored:
        listed.pop(ignored, None)
    assert adapter.expected_shapes == listed


@pytest.mark.parametrize("name", MANIFESTS)
def test_round_trip_is_bit_equal(name):
    """
    Names correspond one to one, and each layout, on each shape where it is used, is undone to the bit. One tensor of
    ours at a time, each number of its originals different, so that the largest model takes no memory.
    """
    skeleton, adapter = skeleton_and_adapter(name)
    assert len(adapter.expected_shapes) == sum(len(original.names) for original in adapter.originals.values())
    uses = {(original.layout, skeleton[ours].shape): ours for ours, original in adapter.originals.items()}
    for ours in uses.values():
        original = adapter.originals[ours]
        one = StateDictAdapter({ours: original}, {ours: skeleton[ours]})
        numbers = torch.arange(skeleton[ours].numel(), dtype=torch.int32).view(torch.float32)
        sizes = [shape.numel() for shape in map(torch.Size, one.expected_shapes.values())]
        parts = {
            key: part.view(shape)
            for (key, shape), part in zip(one.expected_shapes.items(), numbers.split(sizes), strict=True)
        }
        translated = one.to_ours(parts)
        assert translated[ours].shape == skeleton[ours].shape
        back = one.to_original(translated)
        assert back.keys() == parts.keys()
        assert all(same_bits(back[key], part) for key, part in parts.items()), ours


def test_whole_state_dict_goes_there_and_back():
    skeleton, adapter = skeleton_and_adapter("tokenizer_s128_stage1")
    original = hollow_tensors("tokenizer_s128_stage1")
    ours = adapter.to_ours(original)
    assert list(ours) == list(skeleton)
    back = adapter.to_original(ours)
    assert back.keys() == original.keys()
    assert all(same_bits(back[key], tensor) for key, tensor in original.items())


def test_stacked_projections_keep_their_order():
    adapter = skeleton_and_adapter("generator_l32")[1]
    original = adapter.originals["backbone.layers.3.attention.qkv_proj.weight"]
    assert [name.split(".")[-2] for name in original.names] == ["query", "key", "value"]
    parts = [torch.full((2, 2), float(index)) for index in range(3)]
    assert original.layout.to_ours(*parts)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_position_ids_of_old_releases_are_accepted_and_dropped():
    adapter = skeleton_and_adapter("generator_l32")[1]
    with_ids = hollow_tensors("generator_l32_with_position_ids")
    assert "model.embeddings.position_ids" in with_ids
    adapter.check(with_ids)
    adapter.check(hollow_tensors("generator_l32"))


def test_differences_are_counted_and_named():
    adapter = skeleton_and_adapter("tokenizer_s128_stage1")[1]
    tensors = hollow_tensors("tokenizer_s128_stage1")
    removed = [key for key in tensors if key.startswith("encoder.transformer.0")]
    for key in removed:
        del tensors[key]
    tensors["encoder.extra"] = torch.zeros(1)
    tensors["latent_tokens"] = torch.zeros(32, 512)
    tensors["quantize.embedding.weight"] = tensors["quantize.embedding.weight"].to(torch.int8)
    with pytest.raises(CheckpointMismatchError) as error:
        adapter.to_ours(tensors, "checkpoint.bin")
    message = str(error.value)
    assert message.startswith(
        "checkpoint.bin does not fit this model: 12 missing (encoder.transformer.0.ln_1.weight, "
    )
    assert "1 unexpected (encoder.extra)" in message
    assert "1 of another shape (latent_tokens (32, 512) for (128, 512))" in message
    assert "1 not floating point (quantize.embedding.weight torch.int8)" in message


def test_another_variant_is_refused():
    adapter = skeleton_and_adapter("tokenizer_b64")[1]
    with pytest.raises(CheckpointMismatchError, match="of another shape"):
        adapter.check(hollow_tensors("tokenizer_s128"))


def test_a_hole_in_the_table_is_found_at_once():
    with pytest.raises(KeyError, match="unheard"):
        StateDictAdapter({}, {"unheard.weight": torch.zeros(1)})


def test_describe_shows_few_names_and_all_counts():
    assert describe({"missing": ["a", "b", "c", "d"], "unexpected": ["e"], "of another shape": []}) == (
        "4 missing (a, b, c, ...); 1 unexpected (e)"
    )


def test_same_bits_sees_what_equality_does_not():
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.double())
    assert not same_bits(zero, zero[None])
