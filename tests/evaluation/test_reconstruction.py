"""titok_hf.evaluation.reconstruction: numbers that can be computed by hand."""

import math

import pytest
import torch

from titok_hf.evaluation.reconstruction import (
    CodebookUsage,
    ReconstructionMeter,
    center_crop,
    count_codes,
    peak_signal_to_noise_ratio,
    structural_similarity,
)


def test_psnr_of_a_known_error():
    images = torch.zeros(3, 3, 8, 8)
    references = torch.stack([torch.full((3, 8, 8), error) for error in (0.1, 1.0, 0.0)])
    assert peak_signal_to_noise_ratio(images, references).tolist() == pytest.approx([20.0, 0.0, math.inf])


def test_bytes_are_refused():
    """Their differences would wrap around at 0."""
    floats, integers = torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    for measure in (peak_signal_to_noise_ratio, structural_similarity):
        for pair in ((floats, integers), (integers, floats)):
            with pytest.raises(ValueError, match="dtype torch.uint8, but floats"):
                measure(*pair)


def test_sets_of_other_sizes_are_refused():
    """One reference would be compared with all images otherwise."""
    images = torch.rand(3, 3, 16, 16)
    for references in (torch.rand(1, 3, 16, 16), torch.rand(3, 3, 8, 8)):
        for measure in (peak_signal_to_noise_ratio, structural_similarity):
            with pytest.raises(ValueError, match="Give as many references, of the same size"):
                measure(images, references)


def test_the_mean_is_taken_over_images_not_over_batches():
    meter = ReconstructionMeter()
    meter.update(torch.full((3, 3, 16, 16), 0.1), torch.zeros(3, 3, 16, 16))  # 20 dB each
    meter.update(torch.full((1, 3, 16, 16), 0.01), torch.zeros(1, 3, 16, 16))  # 40 dB
    assert meter.num_images == 4
    assert meter.compute()["psnr"] == pytest.approx(25.0)


def test_ssim_is_one_for_equal_images_and_follows_its_formula_for_flat_ones():
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert structural_similarity(noise, noise).tolist() == pytest.approx([1.0, 1.0])
    # Without variance SSIM is (2 a b + C1) / (a^2 + b^2 + C1) with C1 = 0.01^2.
    flat = structural_similarity(torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.25))
    assert flat.item() == pytest.approx((0.25 + 1e-4) / (0.3125 + 1e-4), abs=1e-4)


def test_centre_crop_undoes_padding():
    content = torch.rand(2, 3, 28, 20)
    padded = torch.nn.functional.pad(content, (6, 6, 2, 2))
    assert torch.equal(center_crop(padded, 28, 20), content)


def test_usage_of_a_known_histogram():
    usage = CodebookUsage.from_histogram(torch.tensor([8, 8, 0, 0, 0, 0, 0, 0]))
    assert (usage.num_used, usage.share_used) == (2, 0.25)
    assert usage.perplexity == pytest.approx(2.0)
    uneven = CodebookUsage.from_histogram(torch.tensor([2, 1, 1, 0]))
    assert uneven.perplexity == pytest.approx(2**1.5)  # entropy 1/2 + 1/4 * 2 + 1/4 * 2 = 1.5 bits
    assert uneven.as_dict() == {
        "codebook_size": 4,
        "num_used": 3,
        "share_used": 0.75,
        "perplexity": pytest.approx(2**1.5),
    }


def test_codes_are_counted_over_the_whole_codebook():
    assert count_codes(torch.tensor([[0, 2], [2, 2]]), 5).tolist() == [1, 0, 3, 0, 0]
