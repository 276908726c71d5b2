"""Tokenizers: an original checkpoint, read by `from_pretrained`, computes what the original computed."""

import shutil

import pytest
import torch

import golden_fill
from golden_checkpoints import figures, relative_error, small_weights, write_checkpoint
from titok_hf import TiTokModel

pytestmark = pytest.mark.slow

# Where the two nearest codes are closer than this in squared distance, float32 may round to either.
CLEAR_GAP = {"s128": 1e-4, "l32": 1e-4, "bl64_vq8k": 1e-3}


@pytest.fixture
def tokenizer(request, tmp_path):
    """An original tokenizer, filled, and the original's figures. Full size: one at a time in memory and on disk."""
    name = request.param
    folder = write_checkpoint(f"tokenizer_{name}", tmp_path / name)
    yield TiTokModel.from_pretrained(folder), *figures(f"tokenizer_{name}"), name
    shutil.rmtree(folder)


def close(actual, expected, atol=5e-4, rtol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def check_image(pixel_values, stored_slice, statistics):
    close(pixel_values[:, :, ::16, ::16], stored_slice)
    close(pixel_values.mean().item(), statistics["mean"], atol=1e-4)
    close(pixel_values.std().item(), statistics["std"], atol=1e-4)


@pytest.mark.parametrize("tokenizer", CLEAR_GAP, indirect=True)
@torch.no_grad()
def test_vq_tokenizer_equals_the_original(tokenizer):
    model, scalars, arrays, name = tokenizer
    images = golden_fill.image_batch(scalars["image_seed"], scalars["batch"])
    close(model.encoder(images).last_hidden_state, arrays["z"][:, :, 0].mT, atol=2e-4)

    encoded = model.encode(images, return_loss=True)
    clear = arrays["gap"][:, 0] > CLEAR_GAP[name]
    assert clear.all(), "all stored tokens are clear, or the next line would say less"
    assert torch.equal(encoded.codes, arrays["indices"][:, 0].long())
    close(encoded.latents, arrays["z_quantized"][:, :, 0].mT, atol=1e-6)
    for ours, original in (
        ("loss", "quantizer_loss"),
        ("commitment_loss", "commitment_loss"),
        ("codebook_loss", "codebook_loss"),
    ):
        assert encoded[ours].item() == pytest.approx(scalars["quantizer"][original], rel=1e-5)

    decoded = model.decode(latents=encoded.latents)
    check_image(decoded.pixel_values, arrays["decoded_slice_16"], scalars["decode"])
    if decoded.logits is not None:
        check_logits(decoded.logits, arrays)

    index = torch.arange(model.config.num_latent_tokens)
    codes = (torch.arange(2)[:, None] * 131 + index * 17 + 7) % model.config.codebook_size
    check_image(model.decode(codes=codes).pixel_values, arrays["decode_tokens_slice_16"], scalars["decode_tokens"])
    if name == "s128":
        check_epsilon(model, images, codes)


def check_logits(logits, arrays):
    logits = logits.mT.unflatten(2, (16, 16))
    close(logits[:, ::64, ::4, ::4], arrays["decoder_logits_slice"])
    best = logits.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-3
    assert torch.equal(logits.argmax(1)[clear], arrays["decoder_logits_argmax"].long()[clear])
    assert clear.float().mean() > 0.99


def check_epsilon(model, images, codes):
    """With small weights, the epsilon of the normalisations decides: a wrong one moves these by 4e-4 or more."""
    _, arrays = figures("norm_epsilon_probe")
    with small_weights(model):
        latents = model.encoder(images).last_hidden_state
        logits = model.decode(codes=codes).logits.mT.unflatten(2, (16, 16))
    assert relative_error(latents.mT[:, :, None], arrays["s128_encoder"]) < 1e-4
    assert relative_error(logits[:, ::64, ::4, ::4], arrays["s128_decoder_logits"]) < 1e-4


@pytest.mark.parametrize("tokenizer", ["bl64_vae_c16"], indirect=True)
@torch.no_grad()
def test_kl_tokenizer_equals_the_original(tokenizer):
    model, scalars, arrays, _ = tokenizer
    images = golden_fill.image_batch(scalars["image_seed"], scalars["batch"])
    close(model.encoder(images).last_hidden_state, arrays["z"][:, :, 0].mT, atol=2e-4)

    encoded = model.encode(images, return_loss=True, sample_posterior=False)
    mean, logvar = encoded.posterior_mean, encoded.posterior_logvar
    close(mean, arrays["mean"][:, :, 0].mT, atol=2e-4)
    close(logvar, arrays["logvar"][:, :, 0].mT, atol=2e-4)
    close(model.quantizer.kl_divergence(mean, logvar), arrays["kl"], atol=1e-3)
    assert encoded.kl_loss.item() == pytest.approx(scalars["posterior"]["kl"]["batch_mean"], rel=1e-5)
    check_image(model.decode(latents=encoded.latents).pixel_values, arrays["decoded_slice_16"], scalars["decode"])

    noise = torch.from_numpy(golden_fill.normal(scalars["sample"]["noise_key"], (2, 16, 1, 64)))
    sample = mean + (0.5 * logvar).exp() * noise[:, :, 0].mT
    decoded = model.decode(latents=sample).pixel_values
    check_image(decoded, arrays["decode_sample_slice_16"], scalars["decode_sample"])
