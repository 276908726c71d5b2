"""TiTokModel: both quantisers, both heads, the legacy layout, gradients, precision, memory, saving, errors."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from stored_weights import WAYS_TO_OFFLOAD, offload, store_in_eight_bits
from tiny_pipeline import TINY_VQGAN, tiny_tokenizer
from titok_hf import TiTokModel

KINDS = {
    "vq": {},
    "vq without l2 norm": {"codebook_l2_norm": False},
    "kl": {"quantizer": "kl"},
    "proxy codes": {"decoder_head": "proxy_codes", "proxy_codebook_size": 20, "legacy_latent_layout": True},
    "two-stage": {
        "decoder_head": "proxy_codes",
        "proxy_codebook_size": 20,
        "pixel_decoder": TINY_VQGAN,
        "legacy_latent_layout": True,
    },
}


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=KINDS)
def model(request) -> TiTokModel:
    return tiny_tokenizer(**KINDS[request.param])


def test_shapes_of_every_stage(model, pixel_values):
    encoded = model.encode(pixel_values)
    assert encoded.latents.shape == (3, 8, 4)
    if model.config.quantizer == "kl":
        assert encoded.codes is None
        assert encoded.posterior_mean.shape == encoded.posterior_logvar.shape == (3, 8, 4)
    else:
        assert encoded.codes.shape == (3, 8) and encoded.codes.dtype == torch.int64
        assert encoded.posterior_mean is None
    decoded = model.decode(latents=encoded.latents)
    if model.config.decoder_head == "proxy_codes":
        assert decoded.logits.shape == (3, 16, 20)
    else:
        assert decoded.logits is None
    if model.config.decoder_head == "pixels" or model.pixel_decoder is not None:
        assert decoded.pixel_values.shape == pixel_values.shape
    else:
        assert decoded.pixel_values is None


@torch.no_grad()
def test_the_decoder_names_what_its_head_predicts(model):
    latents = torch.ones(3, 8, 4)
    alone, decoded = model.decoder(latents), model.decode(latents=latents)
    name = "logits" if model.config.decoder_head == "proxy_codes" else "pixel_values"
    assert list(alone) == [name] and torch.equal(alone[name], decoded[name])
    on_request = model.decoder(latents, output_hidden_states=True)
    assert list(on_request) == [name, "hidden_states"] and len(on_request.hidden_states) == 2


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["vq", "two-stage"])
def test_images_are_never_clamped(kind, training, pixel_values):
    model = tiny_tokenizer(**KINDS[kind]).train(training)
    last = model.decoder.head.convolution if kind == "vq" else model.pixel_decoder.decoder.conv_out
    torch.nn.init.constant_(last.bias, 3.0)
    output = model(pixel_values)
    assert output.pixel_values.max() > 1
    assert torch.equal(output.pixel_values, model.decode(codes=output.codes).pixel_values)


@torch.no_grad()
def test_forward_is_decode_of_encode(pixel_values):
    model = tiny_tokenizer()
    encoded = model.encode(pixel_values)
    output = model(pixel_values)
    assert output[0] is output.pixel_values and encoded[0] is encoded.latents
    assert torch.equal(output.codes, encoded.codes)
    assert torch.equal(output.pixel_values, model.decode(latents=encoded.latents).pixel_values)
    # Latents are codebook entries to the last bit, so both ways of decoding give the same picture.
    assert torch.equal(output.pixel_values, model.decode(codes=encoded.codes).pixel_values)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_codes_are_the_nearest_entries(l2_norm, pixel_values):
    model = tiny_tokenizer(codebook_l2_norm=l2_norm)
    tokens = model.encoder(pixel_values).last_hidden_state.double()
    entries = model.quantizer.codebook.weight.double()
    if l2_norm:
        tokens, entries = (x / x.norm(dim=-1, keepdim=True) for x in (tokens, entries))
    distances = (tokens[:, :, None] - entries).square().sum(-1)
    encoded = model.encode(pixel_values)
    assert torch.equal(encoded.codes, distances.argmin(-1))
    assert torch.allclose(encoded.latents.double(), entries[encoded.codes], atol=1e-6)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_quantiser_losses_follow_their_formulas(l2_norm, pixel_values):
    model = tiny_tokenizer(codebook_l2_norm=l2_norm, commitment_cost=0.25)
    output = model(pixel_values, return_loss=True)
    tokens = model.quantizer.normalize(model.encoder(pixel_values).last_hidden_state)
    error = (tokens - model.quantizer.lookup(output.codes)).square().mean()
    assert torch.allclose(output.codebook_loss, error)
    assert torch.allclose(output.commitment_loss, 0.25 * error)
    assert torch.allclose(output.loss, 1.25 * error)
    assert model(pixel_values).loss is None


def test_kl_loss_is_the_divergence_from_the_unit_gaussian(pixel_values):
    model = tiny_tokenizer(quantizer="kl")
    output = model(pixel_values, return_loss=True)
    posterior = torch.distributions.Normal(output.posterior_mean, (0.5 * output.posterior_logvar).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(output.loss, divergence.sum() / len(pixel_values), rtol=1e-5)
    assert output.codebook_loss is None


def test_kl_latents_are_a_sample_or_the_mean(pixel_values):
    model = tiny_tokenizer(quantizer="kl")
    mean = model.encode(pixel_values, sample_posterior=False)
    assert torch.equal(mean.latents, mean.posterior_mean)
    first, again, other = (
        model.encode(pixel_values, generator=torch.Generator().manual_seed(seed)).latents for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    noise = torch.randn(mean.latents.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(first, mean.posterior_mean + (0.5 * mean.posterior_logvar).exp() * noise)


def test_gradients_pass_straight_through_the_codebook(pixel_values):
    model = tiny_tokenizer()
    model(pixel_values).pixel_values.square().mean().backward()
    assert model.encoder.patch_embedding.weight.grad.abs().sum() > 0
    assert model.quantizer.codebook.weight.grad is None  # the reconstruction does not train it
    model(pixel_values, return_loss=True).loss.backward()
    assert model.quantizer.codebook.weight.grad.abs().sum() > 0


def test_every_parameter_gets_a_gradient(model, pixel_values):
    output = model.train()(pixel_values, return_loss=True)
    prediction = output.logits if output.pixel_values is None else output.pixel_values
    (prediction.square().mean() + output.loss).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


def test_gradient_checkpointing_changes_no_gradient(pixel_values):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_tokenizer().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(pixel_values).pixel_values.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
def test_eager_and_sdpa_attention_agree_and_give_what_is_asked(pixel_values):
    model = tiny_tokenizer(encoder_num_hidden_layers=2)
    expected = model(pixel_values).pixel_values
    model.set_attn_implementation("eager")
    output = model(pixel_values, output_hidden_states=True, output_attentions=True)
    assert torch.allclose(output.pixel_values, expected, atol=1e-5)
    assert [state.shape for state in output.hidden_states] == [(3, 1 + 16 + 8, 32)] * 3
    assert [weights.shape for weights in output.attentions] == [(3, 2, 25, 25)] * 2
    assert len(output.decoder_hidden_states) == 2 and len(output.decoder_attentions) == 1
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(()))
    assert model.encode(pixel_values, output_hidden_states=True).hidden_states[-1].shape == (3, 25, 32)


@torch.no_grad()
def test_legacy_layout_reshapes_where_a_transpose_was_meant(pixel_values):
    model = tiny_tokenizer()
    captured = []
    model.encoder.post_norm.register_forward_hook(lambda module, inputs, output: captured.append(output))
    model.config.legacy_latent_layout = True
    tokens = model.encoder(pixel_values).last_hidden_state
    states, weight, bias = captured[0], model.encoder.output_projection.weight, model.encoder.output_projection.bias
    # As the original wrote it: (B, K, D) read as (B, D, K), then a 1 x 1 convolution over D.
    expected = torch.nn.functional.conv1d(states.reshape(3, 32, 8), weight[:, :, None], bias).transpose(1, 2)
    assert torch.allclose(tokens, expected, atol=1e-5)
    model.config.legacy_latent_layout = False
    assert not torch.allclose(model.encoder(pixel_values).last_hidden_state, tokens)


@torch.no_grad()
def test_pixel_head_puts_each_patch_in_its_place():
    model = tiny_tokenizer()
    head = model.decoder.head
    head.convolution.weight.zero_()
    head.convolution.bias.zero_()
    for channel in range(3):
        head.convolution.weight[channel, channel, 1, 1] = 1
    patches = torch.arange(16 * 8 * 8 * 3, dtype=torch.float32).view(1, 16, 8, 8, 3)
    head.projection = torch.nn.Identity()
    image = head(patches.flatten(2))
    for index in range(16):
        row, column = divmod(index, 4)
        cell = image[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(cell, patches[0, index].permute(2, 0, 1))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_quantises_in_float32(dtype, pixel_values):
    model = tiny_tokenizer().to(dtype)
    output = model(pixel_values)
    assert output.pixel_values.dtype == output.latents.dtype == dtype
    assert torch.isfinite(output.pixel_values).all()
    tokens = model.quantizer.normalize(model.encoder(pixel_values).last_hidden_state.float())
    assert torch.equal(output.codes, model.quantizer.distances(tokens).argmin(-1))


@torch.no_grad()
@pytest.mark.parametrize("l2_norm", [True, False])
def test_codebook_does_not_obey_autocast(l2_norm):
    quantizer = tiny_tokenizer(codebook_size=512, codebook_l2_norm=l2_norm).quantizer
    latents = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(0))
    expected = quantizer(latents, return_loss=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(latents, return_loss=True)
    assert all(
        torch.equal(output[name], value) and value.dtype == output[name].dtype for name, value in expected.items()
    )


@torch.no_grad()
def test_gaussian_is_computed_in_float32():
    quantizer = tiny_tokenizer(quantizer="kl").quantizer
    latents = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = quantizer(latents.float(), return_loss=True, sample_posterior=False)
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(latents, return_loss=True, sample_posterior=False)
    assert output.latents.dtype == torch.bfloat16
    assert torch.equal(output.posterior_logvar, expected.posterior_logvar)
    assert torch.equal(output.loss, expected.loss)


def test_log_variance_is_clamped():
    latents = torch.tensor([[[1.0, 2.0, -1e4, 1e4]]], requires_grad=True)
    output = tiny_tokenizer(quantizer="kl").quantizer(latents, return_loss=True, generator=torch.Generator())
    assert output.posterior_logvar.tolist() == [[[-30.0, 20.0]]]
    assert output.latents.isfinite().all() and output.loss.isfinite()


@torch.no_grad()
def test_noise_of_an_image_does_not_depend_on_its_batch():
    # 21 numbers an image: PyTorch fills tensors of sixteen and more in blocks, whose borders are none of an image's.
    model = tiny_tokenizer(quantizer="kl", num_latent_tokens=7, codebook_dim=3)
    latents = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    for new_source in (lambda: torch.Generator().manual_seed(1), lambda: torch.manual_seed(1) and None):
        source = new_source()
        together = model.quantizer(latents, generator=source).latents
        source = new_source()
        parts = [model.quantizer(part, generator=source).latents for part in latents.split([1, 3, 1])]
        assert torch.equal(torch.cat(parts), together)
    one_each = [torch.Generator().manual_seed(seed) for seed in range(5)]
    last = model.quantizer(latents, generator=one_each).latents[4]
    assert torch.equal(model.quantizer(latents[4:], generator=torch.Generator().manual_seed(4)).latents[0], last)


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS_TO_OFFLOAD)
def test_offloaded_weights_give_the_same(model, way, pixel_values, tmp_path):
    quantizer_calls = {}
    if model.config.quantizer == "vq":
        codes = torch.arange(8)[None] + torch.zeros(3, 1, dtype=torch.long)
        tokens = torch.randn(3, 8, 4)
        quantizer_calls = {
            "decode of codes": lambda model: model.decode(codes=codes),
            "lookup": lambda model: {"entries": model.quantizer.lookup(codes)},
            "distances": lambda model: {"distances": model.quantizer.distances(tokens)},
            "loss": lambda model: model.encode(pixel_values, return_loss=True),
        }
    calls = quantizer_calls | {
        "encode": lambda model: model.encode(pixel_values, sample_posterior=False),
        "decode": lambda model: model.decode(latents=torch.ones(3, 8, 4)),
        "forward": lambda model: model(pixel_values, sample_posterior=False),
        "encoder": lambda model: model.encoder(pixel_values),
        "decoder": lambda model: model.decoder(torch.ones(3, 8, 4)),
    }
    expected = {name: call(model) for name, call in calls.items()}
    model.save_pretrained(tmp_path)
    model = offload(model, way, tmp_path)
    for name, call in calls.items():
        for key, value in call(model).items():
            assert torch.equal(value, expected[name][key]), (name, key)


@torch.no_grad()
def test_matrices_may_be_stored_in_eight_bits(model, pixel_values):
    eight_bit = copy.deepcopy(model)
    layers = store_in_eight_bits(eight_bit)
    assert next(eight_bit.encoder.patch_embedding.parameters()).dtype == torch.int8
    for name, layer in layers.items():
        model.get_submodule(name).weight.copy_(layer.weight * layer.scale)
    latents = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(eight_bit.decode(latents=latents)[0], model.decode(latents=latents)[0])
    encoded, expected = (m.encode(pixel_values, sample_posterior=False) for m in (eight_bit, model))
    assert torch.equal(encoded.latents, expected.latents)


@torch.no_grad()
def test_return_dict_false_in_the_configuration_gives_tuples_everywhere(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = TiTokModel.from_pretrained(tmp_path, return_dict=False)
    latents = torch.ones(3, 8, 4)
    for call in (
        lambda model, **kwargs: model.encode(pixel_values, sample_posterior=False, **kwargs),
        lambda model, **kwargs: model.decode(latents=latents, **kwargs),
        lambda model, **kwargs: model(pixel_values, sample_posterior=False, **kwargs),
    ):
        expected = call(model)
        for output in (call(loaded), call(model, return_dict=False)):
            assert isinstance(output, tuple)
            assert all(torch.equal(one, other) for one, other in zip(output, expected.to_tuple(), strict=True))
        assert list(call(loaded, return_dict=True)) == list(expected)


def test_runs_on_the_meta_device(model, pixel_values):
    expected = model(pixel_values, return_loss=True)
    output = model.to("meta")(pixel_values.to("meta"), return_loss=True)
    assert {name: value.shape for name, value in output.items()} == {
        name: value.shape for name, value in expected.items()
    }
    if model.config.quantizer == "vq":
        decoded = model.decode(codes=torch.empty(3, 8, dtype=torch.long, device="meta"))
        assert decoded[0].is_meta


class _Part(torch.nn.Module):
    """One method of a model as a module of its own, which is what torch.export takes."""

    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, inputs):
        return self.method(self.model, inputs)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vq", "two-stage"])
def test_decode_of_codes_exports_and_compiles_whole(kind):
    model = tiny_tokenizer(**KINDS[kind])
    codes = torch.randint(16, (3, 8), generator=torch.Generator().manual_seed(0))
    decode = _Part(model, lambda model, codes: model.decode(codes=codes).pixel_values)
    exported = torch.export.export(decode, (codes[:2],), dynamic_shapes=[{0: torch.export.Dim("batch")}]).module()
    compiled = torch.compile(decode, fullgraph=True, backend="eager")
    for module in (exported, compiled):
        torch.testing.assert_close(module(codes), decode(codes))
    with pytest.raises(ValueError, match="codes span"):
        model.decode(codes=codes + 16)


@torch.no_grad()
def test_sampled_encode_exports_for_every_batch():
    model = tiny_tokenizer(quantizer="kl")
    encode = _Part(model, lambda model, images: model.encode(images).latents)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(encode, (torch.rand(2, 3, 32, 32),), dynamic_shapes=[batch]).module()
    assert exported(torch.rand(5, 3, 32, 32)).shape == (5, 8, 4)


@settings(max_examples=12, deadline=None)
@given(
    grid=st.integers(1, 3),
    patch_size=st.sampled_from([2, 4]),
    tokens=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    heads=st.integers(1, 3),
    layers=st.integers(1, 2),
)
def test_any_size_works(grid, patch_size, tokens, channels, heads, layers):
    size = grid * patch_size
    model = tiny_tokenizer(
        image_size=size,
        patch_size=patch_size,
        num_latent_tokens=tokens,
        num_channels=channels,
        encoder_hidden_size=8 * heads,
        encoder_num_attention_heads=heads,
        encoder_num_hidden_layers=layers,
    )
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        output = model(images)
    assert output.pixel_values.shape == images.shape
    assert output.codes.shape == (2, tokens)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(pixel_values):
    model = tiny_tokenizer()
    together = model(pixel_values)
    for index in range(3):
        alone = model(pixel_values[index : index + 1])
        assert torch.equal(alone.codes[0], together.codes[index])
        assert torch.allclose(alone.pixel_values[0], together.pixel_values[index], atol=1e-5)


@torch.no_grad()
def test_saved_model_reloads_equal_by_every_entry(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    for reloaded in (TiTokModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(reloaded) is TiTokModel
        expected = model.state_dict()
        assert reloaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in reloaded.state_dict().items())


def test_fresh_weights_are_all_initialised():
    model = TiTokModel(tiny_tokenizer(**KINDS["two-stage"]).config)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all() and parameter.abs().max() < 10, name
    assert 0.1 < model.encoder.latent_tokens.std() * 32**0.5 < 2
    assert model.quantizer.codebook.weight.abs().max() <= 1 / 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.encode(torch.rand(2, 1, 32, 32)), r"has shape \(2, 1, 32, 32\).*\(batch, 3, 32, 32\)"),
        (lambda model: model.encode(torch.rand(2, 3, 16, 32)), r"has shape \(2, 3, 16, 32\)"),
        (lambda model: model.encode(torch.rand(3, 32, 32)), r"has shape \(3, 32, 32\)"),
        (lambda model: model.encode(torch.zeros(2, 3, 32, 32).byte()), r"dtype torch.uint8, but floats in \[0, 1\]"),
        (lambda model: model(torch.zeros(2, 3, 32, 32).bool()), "dtype torch.bool, but floats"),
        (lambda model: model.decode(codes=torch.zeros(1, 8)), "codes has dtype torch.float32, but integers"),
        (lambda model: model.decode(codes=torch.zeros(1, 8).bool()), "codes has dtype torch.bool"),
        (lambda model: model.decode(latents=torch.zeros(1, 8, 4).long()), "latents has dtype torch.int64"),
        (lambda model: model.decode(), "exactly one of codes and latents"),
        (lambda model: model.decode(codes=torch.zeros(1, 8).long(), latents=torch.zeros(1, 8, 4)), "exactly one"),
        (lambda model: model.decode(codes=torch.zeros(1, 7).long()), r"codes has shape \(1, 7\).*\(batch, 8\)"),
        (lambda model: model.decode(codes=torch.full((1, 8), 16)), r"codes span \[16, 16\].*\[0, 16\)"),
        (lambda model: model.decode(codes=torch.full((1, 8), -1)), r"codes span \[-1, -1\]"),
        (lambda model: model.decode(latents=torch.zeros(1, 8, 5)), r"latents has shape \(1, 8, 5\)"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny_tokenizer())


def test_kl_model_refuses_codes():
    with pytest.raises(ValueError, match="KL model"):
        tiny_tokenizer(quantizer="kl").decode(codes=torch.zeros(1, 8).long())


@pytest.mark.parametrize("generator", [0, [torch.Generator()] * 2, [0, 1, 2]])
def test_noise_without_one_source_for_each_image_is_refused(generator, pixel_values):
    with pytest.raises(ValueError, match=r"torch.Generator\(\).manual_seed|2 generators for 3 images"):
        tiny_tokenizer(quantizer="kl").encode(pixel_values, generator=generator)


@pytest.mark.parametrize("quantizer", ["vq", "kl"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_not_finite_have_no_codes(quantizer, value):
    model, images = tiny_tokenizer(quantizer=quantizer), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        model.encoder.class_token.fill_(value)
    for entrance in (model.encode, model):
        with pytest.raises(ValueError, match="tokens of the encoder are not all finite"):
            entrance(images)
    assert model.train().encode(images).latents.isnan().all()  # training looks at its loss, an accelerator at these
