"""The MaskGIT-VQGAN, from its PyTorch and its Flax file, computes what the original computed."""

import hashlib

import pytest
import torch

import golden_fill
from golden_checkpoints import figures, manifest, relative_error, small_weights, write_checkpoint
from titok_hf import MaskGitVQGANModel
from titok_hf.original import maskgit_vqgan_adapter
from titok_hf.original.flax_checkpoint import flax_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return MaskGitVQGANModel.from_pretrained(write_checkpoint("maskgit_vqgan", tmp_path_factory.mktemp("vqgan")))


@torch.no_grad()
def test_network_equals_the_original(model):
    scalars, arrays = figures("maskgit_vqgan")
    images = golden_fill.image_batch(scalars["image_seed"])
    latents = model.encoder(images)
    torch.testing.assert_close(latents[:, ::16, ::2, ::2], arrays["encoder_slice"], atol=2e-4, rtol=1e-4)

    encoded = model.encode(images, return_loss=True)
    assert (arrays["gap"] > 1e-3).all(), "all stored codes are clear, or the next line would say less"
    assert torch.equal(encoded.codes, arrays["indices"].long())
    assert encoded.loss.item() == pytest.approx(scalars["quantizer_loss_return_loss_true"], rel=1e-5)

    codes = (torch.arange(2)[:, None] * 31 + torch.arange(256) * 37 + 3) % 1024
    raw, roundtrip = model.decode(codes=codes).pixel_values, model.decode(latents=encoded.latents).pixel_values
    for name, images, statistics in (
        ("decode_raw_slice_16", raw, "decode_raw"),
        ("decode_clamped_slice_16", raw.clamp(0, 1), "decode_clamped"),
        ("roundtrip_clamped_slice_16", roundtrip.clamp(0, 1), "roundtrip_clamped"),
    ):
        torch.testing.assert_close(images[:, :, ::16, ::16], arrays[name], atol=5e-4, rtol=1e-4)
        assert images.mean().item() == pytest.approx(scalars[statistics]["mean"], abs=1e-4)
        assert images.std().item() == pytest.approx(scalars[statistics]["std"], abs=1e-4)


@torch.no_grad()
def test_epsilon_equals_the_original(model):
    """With small weights, the epsilon of the normalisations decides: a wrong one moves these by 1e-3 or more."""
    _, arrays = figures("norm_epsilon_probe")
    codes = (torch.arange(256) * 37 + 3)[None] % 1024
    with small_weights(model):
        encoded = model.encoder(golden_fill.image_batch("titok-a", 1))
        decoded = model.decode(codes=codes).pixel_values
    assert relative_error(encoded[:, ::16, ::2, ::2], arrays["vqgan_encoder"]) < 1e-4
    assert relative_error(decoded[:, :, ::16, ::16], arrays["vqgan_decoder"]) < 1e-4


def test_flax_file_is_the_one_that_flax_writes(model, tmp_path):
    """So the mapping is right, and what computes above is what the Flax file holds."""
    listing = manifest("maskgit_vqgan_flax")
    tensors = maskgit_vqgan_adapter(model.config, model.state_dict(), flax=True).to_original(model.state_dict())
    for entry in listing["tensors"]:
        content = tensors[entry["path"]].numpy()
        assert list(content.shape) == entry["shape"]
        assert hashlib.sha256(content.tobytes()).hexdigest()[:16] == entry["sha256"], entry["path"]
    file = tmp_path / "tokenizer_imagenet256_checkpoint"
    file.write_bytes(flax_bytes({name: tensor.numpy() for name, tensor in tensors.items()}))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == listing["filled"]["file_sha256"]

    again = MaskGitVQGANModel.from_pretrained(file)
    assert all(torch.equal(ours, model.state_dict()[name]) for name, ours in again.state_dict().items())
