"""Quantisers are classes in a table: one more is one class and one entry, for model, files, training and pipeline."""

import math

import pytest
import torch

from tiny_pipeline import tiny_image_processor, tiny_tokenizer
from titok_hf import TiTokConfig, TiTokModel, TiTokPipeline
from titok_hf.checkpoints.cards import CardContent, model_card
from titok_hf.cli.codes_file import CodesFile, codebook_fingerprint
from titok_hf.data.encoders import ImageEncoder
from titok_hf.quantization_titok import QUANTIZERS, Quantizer, QuantizerOutput
from titok_hf.training.start import train
from training_runs import recipe_of, series


class FiniteScalarQuantizer(Quantizer):
    """
    Finite scalar quantisation (arXiv 2309.15505): each channel of a token is rounded to one of a few levels, and a
    code counts the combinations. There is no codebook to learn, and no loss.
    """

    def __init__(self, config):
        super().__init__()
        self.num_levels = round(config.codebook_size ** (1 / config.codebook_dim))
        self.num_channels = config.codebook_dim

    @property
    def num_tokens(self):
        return self.num_levels**self.num_channels

    def forward(self, latents, return_loss=False, sample_posterior=True, generator=None):
        half = (self.num_levels - 1) / 2
        offset = 0.5 if self.num_levels % 2 == 0 else 0.0
        bounded = latents.float().tanh() * half
        rounded = (bounded + offset).round() - offset
        levels = (rounded + half).round().clamp(0, self.num_levels - 1).long()
        codes = (levels * self._radix(latents.device)).sum(-1)
        straight_through = self.lookup(codes) + (bounded - bounded.detach()) / half
        output = QuantizerOutput(latents=straight_through.to(latents.dtype), codes=codes)
        if return_loss:
            output.loss = latents.new_zeros(())
        return output

    def lookup(self, codes):
        levels = codes[..., None] // self._radix(codes.device) % self.num_levels
        return levels.float() * 2 / (self.num_levels - 1) - 1

    def _radix(self, device):
        return self.num_levels ** torch.arange(self.num_channels, device=device)


@pytest.fixture(autouse=True)
def _one_entry(monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "fsq", FiniteScalarQuantizer)


@pytest.fixture
def trained_values(tokenizer_values):
    """Of a recipe that trains the registered quantiser for two steps, after the run."""
    tokenizer_values["model"] |= {"quantizer": "fsq", "codebook_size": 81, "codebook_dim": 4}
    tokenizer_values["optimization"]["num_steps"] = 2
    tokenizer_values["intervals"] |= {"log_every": 1, "evaluate_every": 2}
    tokenizer_values["loss"] = {"reinitialize_codes": True}  # there is no codebook for it
    train(recipe_of(tokenizer_values))
    return tokenizer_values


def test_one_class_and_one_entry_add_a_quantiser(trained_values, tmp_path):
    losses = series(trained_values, "loss")
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert series(trained_values, "codes_used") and series(trained_values, "test/psnr")
    model = TiTokModel.from_pretrained(tmp_path / "run" / "model")
    assert isinstance(model.quantizer, FiniteScalarQuantizer)
    start = TiTokModel(TiTokConfig(image_size=32, **trained_values["model"])).state_dict()
    assert start.keys() == model.state_dict().keys()

    with torch.no_grad():
        model.encoder.output_projection.weight.normal_()  # so that tokens differ
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoded = model.encode(images, return_loss=True)
    assert encoded.codes.shape == (3, 4) and encoded.codes.unique().numel() > 3 and encoded.loss == 0
    decoded = model.decode(codes=encoded.codes).pixel_values
    assert torch.equal(decoded, model.decode(latents=encoded.latents).pixel_values)
    decoded.square().mean().backward()
    assert model.encoder.patch_embedding.weight.grad is None  # codes carry no gradient,
    model(images).pixel_values.square().mean().backward()
    assert model.encoder.patch_embedding.weight.grad.abs().sum() > 0  # latents do

    model.save_pretrained(tmp_path / "saved")
    again = TiTokModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.decode(codes=encoded.codes).pixel_values, decoded)
    with pytest.raises(ValueError, match=r"codes span \[81, 81\]"):
        model.decode(codes=torch.full((1, 4), 81))


def test_files_of_codes_and_the_pipeline_take_it(tmp_path):
    model = tiny_tokenizer(quantizer="fsq")
    pipe = TiTokPipeline(model, tiny_image_processor())
    codes = pipe.encode(torch.rand(2, 3, 32, 32))
    assert codes.dtype == torch.int64 and len(pipe.decode(codes)) == 2
    written = CodesFile(codes, ["a", "b"], "mine", codebook_fingerprint(model))
    written.check_belongs_to(model)
    with pytest.raises(ValueError, match="mean other images to this one"):
        written.check_belongs_to(tiny_tokenizer(seed=1, quantizer="fsq"))
    with pytest.raises(ValueError, match="mean other images to this one"):
        written.check_belongs_to(tiny_tokenizer())

    model.save_pretrained(tmp_path)
    encoder = ImageEncoder(str(tmp_path))
    assert (encoder.column, encoder.value_type) == ("codes", "uint8")
    card = model_card(tmp_path, CardContent())
    assert "8 codes of 16" in card and "| codebook | 16 x 4 |" in card


def test_a_name_without_a_class_is_refused():
    with pytest.raises(Exception, match=r"quantizer is 'lfq', which does not exist. Use one of vq, kl, fsq, or add"):
        TiTokConfig(quantizer="lfq")


def test_a_quantiser_of_another_size_than_the_configuration_says_is_refused():
    with pytest.raises(ValueError, match="codebook_size is 80, but the quantiser 'fsq' has 81 codes"):
        TiTokModel(TiTokConfig(quantizer="fsq", codebook_size=80, codebook_dim=4))
