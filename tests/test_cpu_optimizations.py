"""CPU optimizations: every way equals the plain one, and nothing outside of the pipeline's calls changes."""

import copy
import gc
import pickle
import time
import weakref

import pytest
import torch
import torch.nn.functional as F

from stored_weights import offload
from tiny_pipeline import generators, tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf import cpu_optimizations
from titok_hf.cpu_optimizations import ENLARGED_WAYS, LINEAR_WAYS, CpuOptimizations, enlarged_convolution
from titok_hf.pipeline_titok import TiTokPipeline

PIXEL_DECODER = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 2, 2],
    "num_resnet_blocks": 1,
    "num_groups": 4,
    "codebook_size": 12,
    "codebook_dim": 6,
}
ALTERNATIVES = [(linear, "sub-pixel") for linear in LINEAR_WAYS if linear != "plain"]


@pytest.fixture
def pipe() -> TiTokPipeline:
    """A pipeline with a convolutional pixel decoder."""
    tokenizer = tiny_tokenizer(decoder_head="proxy_codes", proxy_codebook_size=12, pixel_decoder=PIXEL_DECODER)
    generating = tiny_pipeline()
    pipe = TiTokPipeline(tokenizer, tiny_image_processor(), generating.transformer, generating.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def choose(monkeypatch):
    """Lets a test name the ways; returns the list of those that were asked for."""

    def choose(*names):
        asked = []

        def fastest(ways, inputs):
            asked.append(next(name for name in names if name in ways))
            return asked[-1], {}

        monkeypatch.setattr(cpu_optimizations, "_fastest", fastest)
        return asked

    return choose


def outputs(pipe):
    """What the pipeline computes: codes and images of classes, codes and reconstructions of images."""
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generated = pipe([0, 1, 2], generator=generators(1, 2, 3), output_type="pt")
    encoded = pipe.encode(images)
    return generated.codes, encoded, generated.images, pipe.decode(encoded, output_type="pt")


def assert_equal_outputs(actual, expected):
    assert all(torch.equal(*pair) for pair in zip(actual[:2], expected[:2], strict=True))  # codes
    for pair in zip(actual[2:], expected[2:], strict=True):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("way", LINEAR_WAYS)
@pytest.mark.parametrize("shape", [(2, 5, 24), (1, 1, 24), (7, 24), (24,)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_every_way_is_the_linear_map(way, shape, has_bias):
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(shape), torch.randn(40, 24), torch.randn(40) if has_bias else None
    torch.testing.assert_close(LINEAR_WAYS[way](weight, bias)(inputs), F.linear(inputs, weight, bias))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 5)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_four_small_convolutions_are_that_of_the_enlarged_image(size, has_bias):
    torch.manual_seed(0)
    features, kernel = torch.randn(2, 6, *size, dtype=torch.float64), torch.randn(4, 6, 3, 3, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64) if has_bias else None
    expected = F.conv2d(F.interpolate(features, scale_factor=2.0, mode="nearest"), kernel, bias, padding=1)
    torch.testing.assert_close(enlarged_convolution(features, kernel, bias), expected)


@pytest.mark.parametrize("names", ALTERNATIVES)
def test_codes_are_the_same_and_pixels_nearly(pipe, choose, names):
    expected = outputs(pipe)
    asked = choose(*names)
    pipe.enable_cpu_optimizations()
    assert_equal_outputs(outputs(pipe), expected)
    assert set(asked) == set(names)
    assert sum(name == "sub-pixel" for name in asked) == 3  # once for each level of the pixel decoder
    pipe.disable_cpu_optimizations()
    assert all(torch.equal(*pair) for pair in zip(outputs(pipe), expected, strict=True))


def test_measured_choices_are_kept_for_each_shape(pipe):
    expected = outputs(pipe)
    pipe.enable_cpu_optimizations()
    optimizations = pipe._cpu_optimizations
    assert_equal_outputs(outputs(pipe), expected)
    choices = dict(optimizations.choices)
    assert {key[0] for key in choices} == {"linear", "convolution"}
    for (kind, *_), (name, seconds) in choices.items():
        assert name in seconds and seconds.keys() == (LINEAR_WAYS if kind == "linear" else ENLARGED_WAYS).keys()
    outputs(pipe)
    pipe.enable_cpu_optimizations()
    assert pipe._cpu_optimizations is optimizations and optimizations.choices == choices


def test_the_fastest_way_is_chosen_and_the_plain_one_unless_another_gains():
    def waits(seconds):
        return lambda inputs: time.sleep(seconds)

    name, seconds = cpu_optimizations._fastest({"plain": waits(0.01), "slow": waits(0.02), "fast": waits(0.002)}, None)
    assert name == "fast" and seconds["fast"] < seconds["plain"] < seconds["slow"]
    assert cpu_optimizations._fastest({"plain": waits(0.02), "same": waits(0.0195)}, None)[0] == "plain"


@pytest.mark.parametrize("names", ALTERNATIVES)
def test_weights_that_change_are_read_again(pipe, choose, names):
    choose(*names)
    pipe.enable_cpu_optimizations()
    outputs(pipe)
    other = tiny_pipeline(seed=1).transformer
    with torch.no_grad():
        pipe.transformer.load_state_dict(other.state_dict())  # in place
        for parameter in pipe.tokenizer.encoder.parameters():
            parameter.data = parameter.data * 1.5  # in other memory
    actual = outputs(pipe)
    pipe.disable_cpu_optimizations()
    assert_equal_outputs(actual, outputs(pipe))


def test_models_and_saved_files_stay_as_they_are(pipe, choose, tmp_path):
    choose(*ALTERNATIVES[-1])
    pipe.save_pretrained(tmp_path / "before")
    modules = {
        name: type(module) for part in (pipe.tokenizer, pipe.transformer) for name, module in part.named_modules()
    }
    state = pipe.transformer.state_dict()
    pipe.enable_cpu_optimizations()
    expected = outputs(pipe)
    after = pipe.transformer.state_dict()
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items()) and len(after) == len(
        state
    )
    assert modules == {
        name: type(module) for part in (pipe.tokenizer, pipe.transformer) for name, module in part.named_modules()
    }
    pipe.save_pretrained(tmp_path / "after")
    files = [path.relative_to(tmp_path / "before") for path in (tmp_path / "before").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        if path.name == "README.md":
            continue  # it names its folder
        assert (tmp_path / "after" / path).read_bytes() == (tmp_path / "before" / path).read_bytes(), path
    for copied in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert_equal_outputs(outputs(copied), expected)


def test_training_takes_the_plain_way(pipe, choose):
    asked = choose(*ALTERNATIVES[0])
    inputs = torch.full((2, 8), 16), torch.tensor([0, 1])

    def gradients():
        pipe.transformer.zero_grad()
        pipe.transformer(*inputs).logits.square().mean().backward()
        return [parameter.grad.clone() for parameter in pipe.transformer.parameters()]

    expected = gradients()
    pipe.enable_cpu_optimizations()
    outputs(pipe)
    asked.clear()
    with pipe._fast_on_cpu():  # even inside: gradients are needed
        inside = gradients()
    for actual in (gradients(), inside):
        assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))
    assert not asked


def test_other_dtypes_take_the_plain_way(pipe, choose):
    asked = choose(*ALTERNATIVES[0])
    pipe.to(torch.bfloat16)
    expected = outputs(pipe)
    pipe.enable_cpu_optimizations()
    assert all(torch.equal(*pair) for pair in zip(outputs(pipe), expected, strict=True))
    assert not asked
    pipe.to(torch.float32)
    outputs(pipe)
    assert asked


@torch.no_grad()
def test_offloaded_weights_are_those_of_the_moment(pipe, choose, tmp_path):
    expected = outputs(pipe)
    asked = choose(*ALTERNATIVES[-1])
    offload(pipe.transformer, "cpu_offload", tmp_path)
    pipe.enable_cpu_optimizations()
    assert_equal_outputs(outputs(pipe), expected)
    assert_equal_outputs(outputs(pipe), expected)
    of_tokenizer = sum(isinstance(module, torch.nn.Linear) for module in pipe.tokenizer.modules())
    assert asked and len(pipe._cpu_optimizations._prepared) == of_tokenizer  # the others are gone again


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_and_exported_models_are_the_plain_ones(pipe, choose, whole):
    inputs = torch.full((2, 8), 16), torch.tensor([0, 1])
    plain = str(torch.export.export(pipe.transformer, inputs).graph)
    expected = outputs(pipe)
    asked = choose(*ALTERNATIVES[0])
    pipe.enable_cpu_optimizations()
    assert str(torch.export.export(pipe.transformer, inputs).graph) == plain
    if whole:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager", fullgraph=True)
    else:
        pipe.transformer.backbone.layers[0].compile(backend="eager", fullgraph=True)
    assert all(torch.equal(*pair) for pair in zip(outputs(pipe), expected, strict=True))
    assert not asked


def test_copies_of_weights_go_with_the_weights_or_when_disabled(pipe, choose):
    choose("transposed", "sub-pixel")
    pipe.enable_cpu_optimizations()
    outputs(pipe)
    prepared = pipe._cpu_optimizations._prepared
    before = len(prepared)
    pipe.transformer = None
    gc.collect()
    assert 0 < len(prepared) < before
    optimizations = weakref.ref(pipe._cpu_optimizations)
    del prepared
    pipe.disable_cpu_optimizations()
    gc.collect()
    assert optimizations() is None


def test_an_image_enlarged_for_another_purpose_is_left_alone(choose):
    asked = choose("plain", "sub-pixel")
    features, kernel = torch.randn(1, 4, 4, 4), torch.randn(4, 4, 3, 3)
    with torch.no_grad(), CpuOptimizations():
        enlarged = F.interpolate(features, scale_factor=2.0, mode="nearest")
        strided = F.conv2d(enlarged, kernel, None, (2, 2), (1, 1), (1, 1), 1)
        other = F.conv2d(F.interpolate(features, scale_factor=2.0, mode="bilinear"), kernel, padding=1)
    assert strided.shape == (1, 4, 4, 4) and other.shape == (1, 4, 8, 8) and not asked
