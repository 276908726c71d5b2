"""The MaskGIT-VQGAN: shapes, quantiser, gradients, saving, bad input. (Equality with the original: tests/original.)"""

import copy
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from stored_weights import WAYS_TO_OFFLOAD, offload, store_in_eight_bits
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANModel, MaskGitVQGANResnetBlock

TINY = {
    "base_channels": 8,
    "channel_multipliers": [1, 2, 2],
    "num_resnet_blocks": 1,
    "num_groups": 4,
    "codebook_size": 32,
    "codebook_dim": 6,
}


@pytest.fixture
def model() -> MaskGitVQGANModel:
    return MaskGitVQGANModel(MaskGitVQGANConfig(**TINY)).eval()


def images(batch: int = 2, height: int = 16, width: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, height, width)


# Configuration


def test_default_network_has_the_size_of_the_published_one():
    with torch.device("meta"):
        model = MaskGitVQGANModel(MaskGitVQGANConfig())
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sizes == {"encoder": 23_775_104, "decoder": 30_478_339, "quantizer": 262_144}
    assert len(model.state_dict()) == 168
    assert model.config.downsample_factor == 16
    assert model.config.level_channels == [128, 128, 256, 256, 512]


def test_config_survives_saving(tmp_path):
    config = MaskGitVQGANConfig(**TINY, num_channels=1, codebook_loss_weight=1)
    config.save_pretrained(tmp_path)
    assert MaskGitVQGANConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_groups": 3}, "num_groups is 3, which does not divide the 8 channels"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"num_resnet_blocks": 0}, "num_resnet_blocks is 0"),
        ({"channel_multipliers": []}, "channel_multipliers is"),
        ({"channel_multipliers": [1, 0]}, "channel_multipliers is"),
        ({"codebook_dim": "six"}, "codebook_dim"),
        ({"codebook_dim": True}, "codebook_dim"),
        ({"codebook_size": 10**12}, "codebook_size is 1000000000000. Use at most"),
        ({"num_resnet_blocks": 10**9}, "num_resnet_blocks is 1000000000"),
        ({"channel_multipliers": [1] * 40}, "channel_multipliers is .* at most 20"),
        ({"channel_multipliers": [1, 10**9]}, "channel_multipliers is"),
        ({"group_norm_eps": float("nan")}, "group_norm_eps is nan, but a finite number"),
        ({"codebook_loss_weight": -1}, "codebook_loss_weight is -1"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        MaskGitVQGANConfig(**{**TINY, **change})


# Network


@pytest.mark.parametrize(
    ("config", "height", "width"),
    [
        ({}, 16, 16),
        ({}, 8, 20),
        ({"channel_multipliers": [2]}, 5, 7),
        ({"channel_multipliers": (1, 3), "num_resnet_blocks": 3, "num_channels": 1}, 6, 2),
    ],
)
def test_shapes_follow_the_configuration(config, height, width):
    config = MaskGitVQGANConfig(**{**TINY, **config})
    model = MaskGitVQGANModel(config).eval()
    rows, columns = height // config.downsample_factor, width // config.downsample_factor
    pixel_values = images(2, height, width, config.num_channels)
    encoded = model.encode(pixel_values)
    assert encoded.latents.shape == (2, config.codebook_dim, rows, columns)
    assert encoded.codes.shape == (2, rows * columns)
    assert encoded.codes.dtype == torch.int64
    assert model(pixel_values).pixel_values.shape == pixel_values.shape
    assert MaskGitVQGANDecoder(config)(encoded.latents).shape == pixel_values.shape


def test_width_changing_block_adds_the_shortcut_of_its_own_output():
    config = MaskGitVQGANConfig(**TINY)
    block = MaskGitVQGANResnetBlock(config, 8, 16)
    x = torch.randn(1, 8, 4, 4)
    silu = nn.functional.silu
    output = block.conv2(silu(block.norm2(block.conv1(silu(block.norm1(x))))))
    torch.testing.assert_close(block(x), output + block.shortcut(output))
    assert block.shortcut.in_channels == 16
    same_width = MaskGitVQGANResnetBlock(config, 8, 8)
    assert same_width.shortcut is None
    nn.init.zeros_(same_width.conv2.weight)
    assert torch.equal(same_width(x), x)


@pytest.mark.parametrize("training", [False, True])
def test_images_are_never_clamped(model, training):
    nn.init.constant_(model.train(training).decoder.conv_out.bias, 3.0)
    output = model(images())
    assert output.pixel_values.max() > 1
    assert torch.equal(output.pixel_values, model.decoder(output.latents))
    assert torch.equal(output.pixel_values, model.decode(latents=output.latents).pixel_values)
    assert torch.equal(output.pixel_values, model.decode(codes=output.codes).pixel_values)


def test_outputs_name_the_images_first_and_become_tuples(model):
    pixel_values = images()
    output = model(pixel_values)
    assert list(output) == ["pixel_values", "latents", "codes"]
    pixels, _, codes = model(pixel_values, return_dict=False)
    assert torch.equal(pixels, output.pixel_values)
    assert torch.equal(model.encode(pixel_values, return_dict=False)[1], codes)
    assert torch.equal(model.decode(codes=codes, return_dict=False)[0], pixels)
    model.config.return_dict = False
    assert torch.equal(model(pixel_values)[0], pixels)


# Quantiser


def test_codes_are_the_nearest_rows_of_the_codebook(model):
    tokens = torch.randn(3, 20, 6)
    output = model.quantizer(tokens)
    codebook = model.quantizer.codebook.weight
    distances = (tokens[..., None, :].double() - codebook.double()).square().sum(dim=-1)
    assert torch.equal(output.codes, distances.argmin(dim=-1))
    assert output.codes.unique().numel() > 5
    assert torch.equal(output.latents, codebook[output.codes])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_distances_are_float32_under_autocast_and_in_half_precision(model, dtype):
    # Codes far from zero and close to each other: in half precision all distances would be equal.
    model.quantizer.codebook.weight.data = 32 + torch.arange(32).view(32, 1).expand(32, 6) / 4
    tokens = model.quantizer.lookup(torch.arange(32)[None]).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.quantizer(tokens).codes[0], torch.arange(32))
    half = model.to(dtype).quantizer
    assert torch.equal(half(tokens.to(dtype)).codes[0], torch.arange(32))


def test_codes_and_latents_decode_to_the_same_bits(model):
    encoded = model.encode(images())
    pixels = model.decode(latents=encoded.latents).pixel_values
    assert torch.equal(model.decode(codes=encoded.codes).pixel_values, pixels)
    assert torch.equal(model.decode(codes=encoded.codes.view(2, 4, 4)).pixel_values, pixels)
    assert torch.equal(model.decode(codes=encoded.codes.to(torch.uint16)).pixel_values, pixels)


def test_a_map_that_is_not_square_decodes_with_its_shape(model):
    pixel_values = images(1, 8, 16)
    output = model(pixel_values)
    assert torch.equal(model.decode(codes=output.codes.view(1, 2, 4)).pixel_values, output.pixel_values)


def test_loss_weighs_the_codebook_term(model):
    pixel_values = images()
    tokens = model.encoder(pixel_values).flatten(2).mT.detach().requires_grad_()
    output = model.quantizer(tokens, return_loss=True)
    error = (tokens - output.latents).detach()
    torch.testing.assert_close(output.loss, 1.25 * error.square().mean())
    output.loss.backward()
    torch.testing.assert_close(tokens.grad, 2 * error / error.numel())
    model.zero_grad()
    nn.functional.mse_loss(model.quantizer.lookup(output.codes), tokens.detach()).backward()
    unweighted = model.quantizer.codebook.weight.grad.clone()
    model.zero_grad()
    model(pixel_values, return_loss=True).loss.backward()
    torch.testing.assert_close(model.quantizer.codebook.weight.grad, 0.25 * unweighted)
    assert model(pixel_values).loss is None


def test_gradients_pass_straight_through_the_quantiser(model):
    features = []
    model.encoder.register_forward_hook(lambda module, arguments, output: features.append(output))
    latents = model.encode(images()).latents
    weight = torch.randn_like(latents)
    (gradient,) = torch.autograd.grad((latents * weight).sum(), features[0])
    assert torch.equal(gradient, weight)


# As a transformers model


def test_reloaded_model_gives_the_same_bits(model, tmp_path):
    pixel_values = images()
    model.save_pretrained(tmp_path)
    reloaded = MaskGitVQGANModel.from_pretrained(tmp_path)
    assert torch.equal(reloaded(pixel_values).pixel_values, model(pixel_values).pixel_values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(model, dtype):
    pixel_values = images()
    expected = model(pixel_values).pixel_values
    codes = model.encode(pixel_values).codes
    half = model.to(dtype)
    assert half(pixel_values).pixel_values.dtype == dtype
    torch.testing.assert_close(half.decode(codes=codes).pixel_values.float(), expected, atol=0.05, rtol=0)


def test_activation_checkpointing_leaves_gradients_alone(model):
    pixel_values = images()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        output = model(pixel_values, return_loss=True)
        (output.loss + output.pixel_values.mean()).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    model.train()
    expected = gradients()
    model.gradient_checkpointing_enable()
    assert model.decoder.mid_blocks[0].gradient_checkpointing
    for got, want in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_every_weight_missing_in_a_checkpoint_is_initialised(tmp_path):
    config = MaskGitVQGANConfig(**{**TINY, "base_channels": 32, "codebook_size": 500})
    MaskGitVQGANModel(config).save_pretrained(tmp_path, state_dict={"encoder.conv_in.weight": torch.ones(32, 3, 3, 3)})
    model, _ = MaskGitVQGANModel.from_pretrained(tmp_path, output_loading_info=True)  # so gaps are filled, not refused
    assert model.encoder.conv_in.weight.eq(1).all()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
    # Uniform within one over the root of the fan-in, biases too; the codebook within one over its size.
    for module, bound in ((model.decoder.mid_blocks[0].conv1, (64 * 9) ** -0.5), (model.quantizer.codebook, 1 / 500)):
        assert module.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert 0 < model.decoder.conv_in.bias.abs().max() <= (6 * 9) ** -0.5


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS_TO_OFFLOAD)
def test_offloaded_weights_give_the_same(model, way, tmp_path):
    pixel_values, codes, latents = images(), torch.arange(32).view(2, 16), torch.randn(2, 6, 4, 4)
    calls = {
        "encode": lambda model: model.encode(pixel_values, return_loss=True).to_tuple(),
        "decode of codes": lambda model: model.decode(codes=codes).to_tuple(),
        "decode": lambda model: model.decode(latents=latents).to_tuple(),
        "forward": lambda model: model(pixel_values, return_loss=True).to_tuple(),
        "distances": lambda model: [model.quantizer.distances(latents.flatten(2).mT)],
        "lookup": lambda model: [model.quantizer.lookup(codes)],
        "encoder": lambda model: [model.encoder(pixel_values)],
        "decoder": lambda model: [model.decoder(latents)],
    }
    expected = {name: call(model) for name, call in calls.items()}
    model.save_pretrained(tmp_path)
    model = offload(model, way, tmp_path)
    for name, call in calls.items():
        assert all(torch.equal(*pair) for pair in zip(call(model), expected[name], strict=True)), name


@torch.no_grad()
def test_convolutions_may_be_stored_in_eight_bits(model):
    eight_bit = copy.deepcopy(model)
    for name, layer in store_in_eight_bits(eight_bit).items():
        model.get_submodule(name).weight.copy_(layer.weight * layer.scale)
    pixel_values, latents = images(), torch.randn(2, 6, 4, 4)
    assert torch.equal(eight_bit.encode(pixel_values).latents, model.encode(pixel_values).latents)
    assert torch.equal(eight_bit.decode(latents=latents)[0], model.decode(latents=latents)[0])


def test_runs_on_the_meta_device(model):
    output = model.to("meta")(images().to("meta"), return_loss=True)
    assert {name: tuple(value.shape) for name, value in output.items()} == {
        "pixel_values": (2, 3, 16, 16),
        "latents": (2, 6, 4, 4),
        "codes": (2, 16),
        "loss": (),
    }
    assert model.decode(codes=output.codes)[0].is_meta


class _Decode(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, codes):
        return self.model.decode(codes=codes).pixel_values


@torch.no_grad()
def test_decode_of_codes_exports_and_compiles_whole(model):
    decode, codes = _Decode(model), torch.arange(32).view(2, 4, 4)
    exported = torch.export.export(decode, (codes,)).module()
    compiled = torch.compile(decode, fullgraph=True, backend="eager")
    for module in (exported, compiled):
        torch.testing.assert_close(module(codes), decode(codes))


# Bad input


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.rand(1, 1, 16, 16), r"shape \(1, 1, 16, 16\); expected \(batch, 3, height, width\)"),
        (torch.rand(3, 16, 16), r"shape \(3, 16, 16\)"),
        (torch.rand(1, 3, 16, 18), "16 x 18 pixels; both sides must be multiples of 4"),
        (torch.rand(1, 3, 0, 16), "0 x 16 pixels"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "dtype torch.uint8, but floats"),
    ],
)
def test_wrong_images_are_refused(model, pixel_values, message):
    with pytest.raises(ValueError, match=message):
        model.encode(pixel_values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either codes or latents; got neither"),
        ({"codes": torch.zeros(1, 4).long(), "latents": torch.rand(1, 6, 2, 2)}, "got both"),
        ({"codes": torch.tensor([[0, 1, 2, 32]])}, r"codes span \[0, 32\].*\[0, 32\)"),
        ({"codes": torch.tensor([[0, 1, 2, -1]])}, r"codes span \[-1, 2\]"),
        ({"codes": torch.zeros(1, 5).long()}, "5 positions for each image, which is no square"),
        ({"codes": torch.zeros(4).long()}, r"shape \(4,\)"),
        ({"codes": torch.zeros(1, 4)}, "dtype torch.float32, but integers"),
        ({"latents": torch.rand(1, 5, 2, 2)}, r"expected \(batch, 6, height, width\)"),
        ({"latents": torch.zeros(1, 6, 2, 2).long()}, "Integers go to the argument codes"),
    ],
)
def test_wrong_codes_and_latents_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.decode(**arguments)
