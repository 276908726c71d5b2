"""titok_hf.evaluation.rate: sizes that can be counted, and maps that are what replacing a token does."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from image_sources import picture
from tiny_pipeline import tiny_pipeline, tiny_tokenizer
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.rate import (
    bits_of_codes,
    covered_area,
    measure_rates,
    pillow_codec,
    token_influence,
    tokenizer_codec,
)
from titok_hf.evaluation.reconstruction import peak_signal_to_noise_ratio


class Means(nn.Module):
    def forward(self, images):
        return images.float().mean(dim=(2, 3))


@pytest.fixture
def images():
    arrays = [np.array(picture(number).resize((32, 32))) for number in range(5)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def test_codes_have_one_length():
    assert bits_of_codes(TiTokConfig.from_variant("l32")) == 32 * 12
    assert bits_of_codes(TiTokConfig.from_variant("s128")) == 128 * 12
    with pytest.raises(ValueError, match="KL"):
        bits_of_codes(TiTokConfig.from_variant("bl64_vae_c16"))


@pytest.mark.parametrize("image_format", ["JPEG", "WebP"])
def test_a_file_has_the_size_that_pillow_writes(image_format, images):
    decoded, bits = pillow_codec(image_format, 80)(images)
    assert decoded.shape == images.shape and decoded.dtype == torch.uint8
    num_bytes = 0
    for image, ours in zip(images, decoded, strict=True):
        stream = BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, image_format, quality=80)
        num_bytes += stream.tell()
        assert np.array_equal(np.asarray(Image.open(stream).convert("RGB")), ours.permute(1, 2, 0).numpy())
    assert bits == 8 * num_bytes


def test_better_quality_costs_bits_and_brings_decibels(images):
    codecs = {str(quality): pillow_codec("JPEG", quality) for quality in (5, 50, 95)}
    points = measure_rates(images, codecs, FrechetDistance(Means()), batch_size=2)
    for name in ("bits_per_image", "psnr", "ssim"):
        values = [getattr(point, name) for point in points]
        assert values == sorted(values) and len(set(values)) == 3
    assert points[-1].frechet_distance < points[0].frechet_distance


def test_a_tokenizer_is_measured_by_the_images_of_its_pipeline(images):
    pipeline = tiny_pipeline()
    point = measure_rates(images, {"tiny": tokenizer_codec(pipeline)}, batch_size=2)[0]
    assert point.bits_per_image == 8 * 4 and point.frechet_distance is None
    arrays = np.stack([np.asarray(image) for image in pipeline.reconstruct(images.float() / 255)])
    decoded = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    psnr = peak_signal_to_noise_ratio(decoded.float() / 255, images.float() / 255).mean().item()
    assert point.psnr == pytest.approx(psnr, abs=1e-4)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        measure_rates(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), {"JPEG": pillow_codec("JPEG", 80)})


def test_a_map_is_what_replacing_the_token_does(images):
    model = tiny_tokenizer()
    maps = token_influence(model, images, num_replacements=2)
    assert maps.shape == (8, 32, 32)
    codes = model.encode(images.float() / 255, return_dict=True).codes
    expected = torch.zeros(32, 32)
    with torch.no_grad():
        original = model.decode(codes=codes, return_dict=True).pixel_values.clamp(0, 1)
        for index in range(5):
            for shift in (1, 2):
                changed = codes[index].clone()
                changed[3] = codes[(index + shift) % 5, 3]
                image = model.decode(codes=changed[None], return_dict=True).pixel_values.clamp(0, 1)
                expected += (image[0] - original[index]).abs().mean(dim=0) / 10
    assert torch.allclose(maps[3], expected, atol=1e-5)
    assert maps[3].max() > 1e-3


def test_a_kl_model_has_maps_too(images):
    maps = token_influence(tiny_tokenizer(quantizer="kl"), images, num_replacements=9)
    assert maps.isfinite().all() and maps.amax() > 0


@pytest.mark.parametrize(("count", "replacements"), [(1, 1), (5, 0)])
def test_a_token_needs_another_image_s(count, replacements, images):
    with pytest.raises(ValueError, match="at least two images and one replacement"):
        token_influence(tiny_tokenizer(), images[:count], replacements)


def test_a_stage_1_model_draws_nothing(images):
    with pytest.raises(ValueError, match="stage-1"):
        token_influence(tiny_tokenizer(decoder_head="proxy_codes"), images)


def test_the_area_is_the_share_of_the_pixels_that_change():
    maps = torch.zeros(3, 4, 4)
    maps[0] = 0.2
    maps[1, :2] = 0.7
    assert torch.allclose(covered_area(maps), torch.tensor([1.0, 0.5, 0.0]))
