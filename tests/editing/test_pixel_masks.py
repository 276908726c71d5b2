"""Pixel masks: they follow their image through resizing and cropping, and what is no mask is one clear error."""

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_pipeline import tiny_pipeline
from titok_hf.editing.pixel_masks import pixel_masks
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil

PIPE = tiny_pipeline()
HOLE = np.zeros((32, 32), dtype=bool)
HOLE[4:12, 8:20] = True


def prepared(masks, images=None):
    images = [Image.new("RGB", (32, 32))] if images is None else images
    return pixel_masks(masks, images, 32, PIPE.preprocess)


@pytest.mark.parametrize(
    "mask",
    [
        HOLE,
        HOLE.astype(np.uint8),
        HOLE.astype(np.uint8) * 255,
        HOLE[None].astype(np.float32),
        HOLE[..., None],
        torch.from_numpy(HOLE),
        torch.from_numpy(HOLE)[None, None],
        [HOLE],
        Image.fromarray(HOLE),
        Image.fromarray(HOLE.astype(np.uint8) * 255).convert("RGB"),
    ],
)
def test_a_mask_may_come_in_any_container(mask):
    masks = prepared(mask)
    assert masks.shape == (1, 1, 32, 32) and masks.dtype == torch.bool
    assert torch.equal(masks[0, 0], torch.from_numpy(HOLE))


def test_one_mask_serves_all_images_and_several_one_each():
    images = [Image.new("RGB", (32, 32))] * 2
    assert torch.equal(prepared(HOLE, images)[0], prepared(HOLE, images)[1])
    each = prepared(np.stack([HOLE, ~HOLE]), images)
    assert torch.equal(each[0], ~each[1])


def test_a_mask_is_resized_and_cropped_as_its_image():
    """The white rectangle of an image, used as its own mask, covers exactly what is white after preprocessing."""
    picture = np.zeros((64, 128), dtype=np.uint8)
    picture[16:48, 40:72] = 255
    pixel_values = PIPE.preprocess([Image.fromarray(picture)])
    masks = prepared(Image.fromarray(picture), [Image.fromarray(picture)])
    assert torch.equal(masks[0], pixel_values[0, :1] > 0.5)
    assert masks.any() and not masks.all()


def test_a_mask_turns_with_a_photo_that_is_stored_lying(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: 64 x 32 as it is stored, 32 x 64 as it is shown
    Image.new("RGB", (64, 32)).save(tmp_path / "photo.jpg", exif=exif)
    upright = np.zeros((64, 32), dtype=bool)
    upright[16:32] = True  # rows, as the photo is shown
    masks = prepared(upright, [Image.open(tmp_path / "photo.jpg")])
    assert masks[0, 0, :16].all() and not masks[0, 0, 16:].any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((16, 16), dtype=bool), r"16 x 16 pixels .* 48 x 32"),
        (np.zeros((32, 32), dtype=bool), "marks no pixel"),
        (np.ones((48, 32), dtype=np.uint8), "marks every pixel"),
        (np.full((32, 32), 128, dtype=np.uint8), "values 128, but only two"),
        (np.linspace(0, 1, 1024).reshape(32, 32), "only two are expected"),
        (np.full((32, 32), np.nan), "values nan"),
        (np.full((32, 32), -1), "values -1"),
        (np.zeros((32, 32, 3), dtype=np.uint8), "without colours"),
        (np.full((32, 32), "black"), "dtype <U5"),
        ("hole.png", "of type str"),
        ([HOLE, HOLE], "2 masks for 1 images"),
    ],
)
def test_what_is_no_mask_is_one_error(mask, message):
    with pytest.raises(ValueError, match=message):
        prepared(mask, [Image.new("RGB", (32, 48))])


def test_a_mask_of_a_whole_padded_image_leaves_nothing_known():
    image = Image.new("L", (28, 28))
    processor = TiTokImageProcessorPil(size=32, do_enlarge=False)
    with pytest.raises(ValueError, match="marks every pixel"):
        pixel_masks(
            [np.ones((28, 28), dtype=bool)],
            [image],
            32,
            lambda images: processor(images, return_tensors="pt").pixel_values,
        )


def test_a_mask_outside_of_the_crop_marks_nothing():
    mask = np.zeros((32, 96), dtype=bool)
    mask[:, :10] = True  # the centre crop keeps columns 32 to 63
    with pytest.raises(ValueError, match="marks no pixel of the cropped image"):
        prepared(mask, [Image.new("RGB", (96, 32))])
