"""titok_hf.training.discriminator: shapes, independence of images, errors. Figures: test_parity_adversarial."""

import pytest
import torch

from titok_hf.training.discriminator import BlurDownsample, Discriminator


@pytest.mark.parametrize(
    ("size", "side"), [((256, 256), (16, 16)), ((32, 32), (4, 4)), ((28, 28), (4, 4)), ((33, 130), (5, 16))]
)
@torch.no_grad()
def test_logits_are_a_grid_no_finer_than_the_features(size, side):
    discriminator = Discriminator(num_channels=1, hidden_channels=32)
    assert discriminator(torch.rand(2, 1, *size)).shape == (2, 1, *side)


@torch.no_grad()
def test_stages_and_sides_are_free():
    discriminator = Discriminator(hidden_channels=32, num_stages=1, logits_size=3)
    assert discriminator(torch.rand(1, 3, 16, 16)).shape == (1, 1, 3, 3)
    assert discriminator.conv_logits.in_channels == 32


@torch.no_grad()
def test_images_do_not_see_each_other():
    discriminator = Discriminator(hidden_channels=32)
    images = torch.rand(4, 3, 32, 32)
    together = discriminator(images)
    assert torch.allclose(torch.cat([discriminator(image[None]) for image in images]), together, atol=1e-5)


def test_only_weights_are_saved():
    assert len(Discriminator(hidden_channels=32).state_dict()) == 18


def test_blur_keeps_what_is_uniform_and_rounds_odd_sides_up():
    blurred = BlurDownsample()(torch.ones(1, 2, 7, 8))
    assert blurred.shape == (1, 2, 4, 4)
    assert torch.equal(blurred[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert blurred[0, 0, 1, 0] == 7 / 8  # an eighth of the weight lies beyond the edge


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_channels": 48}, "hidden_channels is 48; it must be a multiple of 32"),
        ({"num_stages": 0}, "num_stages is 0; it must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Discriminator(**sizes)
