"""Codes of any length: models trained with tail drop keep and decode the first tokens, others refuse to."""

import pytest
import torch
from transformers import AutoModel

from tiny_pipeline import tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf import TiTokModel, TiTokPipeline
from titok_hf.evaluation.rate import bits_of_codes, lengths_of
from titok_hf.exported.runtime import ExportedTokenizer

KINDS = {
    "vq": {},
    "kl": {"quantizer": "kl"},
    "proxy codes": {"decoder_head": "proxy_codes", "proxy_codebook_size": 20, "legacy_latent_layout": True},
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=KINDS)
def model(request) -> TiTokModel:
    return tiny_tokenizer(tail_drop=True, **KINDS[request.param])


def rngs() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(3)]


@pytest.mark.parametrize("num_tokens", [1, 3, 8])
@torch.no_grad()
def test_kept_tokens_are_the_first_of_all_tokens(model, images, num_tokens):
    every, kept = model.encode(images, generator=rngs()), model.encode(images, generator=rngs(), num_tokens=num_tokens)
    for name in ("latents", "codes", "posterior_mean", "posterior_logvar"):
        assert (name in every) == (name in kept)
        assert name not in every or torch.equal(kept[name], every[name][:, :num_tokens])


@torch.no_grad()
def test_first_tokens_are_decoded_without_a_trace_of_the_others(model, images):
    encoded = model.encode(images, generator=rngs())
    others = encoded.latents.clone()
    others[:, 3:] = 7.0
    reconstruction = model(images, generator=rngs(), num_tokens=3)
    for latents in (encoded.latents, others):
        decoded = model.decode(latents=latents[:, :3])
        for name in ("pixel_values", "logits"):
            assert (name in decoded) == (name in reconstruction)
            assert name not in decoded or torch.equal(decoded[name], reconstruction[name])
    if encoded.codes is not None:
        assert torch.equal(
            model.decode(codes=encoded.codes[:, :3])[0], model.decode(latents=encoded.latents[:, :3])[0]
        )


@torch.no_grad()
def test_each_number_of_tokens_gives_another_image(images):
    model = tiny_tokenizer(tail_drop=True)
    decoded = [model(images, num_tokens=number).pixel_values for number in range(1, 9)]
    assert all(not torch.equal(one, other) for one, other in zip(decoded, decoded[1:], strict=False))
    assert torch.equal(decoded[-1], model(images).pixel_values)


def test_the_loss_of_a_codebook_is_that_of_all_tokens_and_of_a_gaussian_that_of_the_kept_ones(images):
    vq = tiny_tokenizer(tail_drop=True)
    every, kept = vq(images, return_loss=True), vq(images, return_loss=True, num_tokens=2)
    assert every.loss == kept.loss and every.commitment_loss == kept.commitment_loss
    kl = tiny_tokenizer(tail_drop=True, quantizer="kl")
    every = kl(images, return_loss=True, sample_posterior=False)
    kept = kl(images, return_loss=True, sample_posterior=False, num_tokens=2)
    by_token = kl.quantizer.kl_divergence(every.posterior_mean, every.posterior_logvar)
    torch.testing.assert_close(kept.loss, by_token[:, :2].sum() / 3)
    torch.testing.assert_close(kept.kl_loss, kept.loss)
    assert kept.loss < every.loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_tail_drop_decodes_all_tokens_only(kind, images):
    model = tiny_tokenizer(**KINDS[kind])
    with pytest.raises(ValueError, match="num_tokens is 3, but this model was trained to decode all 8 tokens"):
        model.encode(images, num_tokens=3)
    assert model.encode(images, num_tokens=8).latents.shape == (3, 8, 4)
    latents = model.encode(images).latents
    with pytest.raises(
        ValueError, match=r"shape \(3, 3, 4\), but this model takes \(batch, 8, 4\). Without tail drop"
    ):
        model.decode(latents=latents[:, :3])
    if kind != "kl":
        with pytest.raises(ValueError, match=r"shape \(3, 3\), but this model takes \(batch, 8\). Without tail drop"):
            model.decode(codes=torch.zeros(3, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("num_tokens", "message"),
    [
        (0, "num_tokens is 0. Use at least 1"),
        (-1, "num_tokens is -1"),
        (9, "num_tokens is 9. Use at most 8"),
        (2.5, "an integer is expected"),
        (True, "an integer is expected"),
        ("3", "an integer is expected"),
    ],
)
def test_impossible_numbers_of_tokens_are_refused(num_tokens, message, images):
    pipe = TiTokPipeline(tiny_tokenizer(tail_drop=True), tiny_image_processor())
    for encode in (pipe.tokenizer.encode, pipe.tokenizer, pipe.encode, pipe.reconstruct):
        with pytest.raises(ValueError, match=message):
            encode(images, num_tokens=num_tokens)


@pytest.mark.parametrize("length", [0, 9])
def test_codes_of_an_impossible_length_are_refused(length):
    model = tiny_tokenizer(tail_drop=True)
    with pytest.raises(ValueError, match="With tail drop, any number of tokens from 1 to 8 is decoded"):
        model.decode(codes=torch.zeros(2, length, dtype=torch.long))
    with pytest.raises(ValueError, match="With tail drop, any number of tokens from 1 to 8 is decoded"):
        model.decode(latents=torch.zeros(2, length, 4))


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_pipeline_encodes_and_decodes_the_first_tokens(kind, images):
    pipe = TiTokPipeline(tiny_tokenizer(tail_drop=True, **KINDS[kind]), tiny_image_processor())
    tokens = pipe.encode(images, num_tokens=3, batch_size=2)
    assert torch.equal(tokens, pipe.encode(images)[:, :3])
    decoded = pipe.decode(tokens, "pt")
    assert decoded.shape == (3, 3, 32, 32) and torch.equal(decoded, pipe.reconstruct(images, "pt", num_tokens=3))


def test_a_generator_starts_from_all_codes(images):
    pipe = tiny_pipeline()
    pipe.tokenizer = tiny_tokenizer(tail_drop=True)
    codes = pipe.encode(images, num_tokens=3)
    with pytest.raises(ValueError, match="init_codes has 3 tokens for each image, but the generator predicts all 8"):
        pipe(0, init_codes=codes, strength=0.5)


def test_tail_drop_is_saved_with_the_model(tmp_path, images):
    model = tiny_tokenizer(tail_drop=True)
    model.save_pretrained(tmp_path)
    for loaded in (TiTokModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert torch.equal(loaded(images, num_tokens=2).pixel_values, model(images, num_tokens=2).pixel_values)
    assert not tiny_tokenizer().config.tail_drop


@torch.no_grad()
def test_compiled_and_exported_models_decode_each_length(images):
    model = tiny_tokenizer(tail_drop=True)
    decode = torch.compile(model.decode, backend="eager", fullgraph=True)
    for number in (1, 2, 5, 8):
        codes = model.encode(images, num_tokens=number).codes
        torch.testing.assert_close(decode(codes).pixel_values, model.decode(codes).pixel_values)


def test_exported_programs_take_all_tokens(images):
    """Whose shapes are fixed; the engines are in tests/exported."""
    config = tiny_tokenizer(tail_drop=True).config
    tokens = {"codes": torch.zeros(3, 8, dtype=torch.long), "latents": torch.zeros(3, 8, 4)}
    exported = ExportedTokenizer(config, lambda **inputs: tokens, lambda **inputs: {"pixel_values": images}, "")
    assert exported.encode(images, num_tokens=8).codes.shape == (3, 8)
    with pytest.raises(ValueError, match="There are 3 tokens for each image, but programs are exported for all 8"):
        exported.encode(images, num_tokens=3)
    with pytest.raises(ValueError, match="There are 3 tokens for each image, but programs are exported for all 8"):
        exported.decode(tokens["codes"][:, :3])


def test_bits_and_lengths_to_compare():
    config = tiny_tokenizer(tail_drop=True).config
    assert bits_of_codes(config) == 32 and bits_of_codes(config, 3) == 12
    assert lengths_of(config) == [1, 2, 4, 8]
    assert lengths_of(tiny_tokenizer(tail_drop=True, num_latent_tokens=6).config) == [1, 2, 4, 6]
    assert lengths_of(tiny_tokenizer(tail_drop=True, num_latent_tokens=1).config) == [1]
    assert lengths_of(tiny_tokenizer().config) == [8]
