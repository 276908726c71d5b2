"""The image processor: what is no image, or none that fits, and with what sentence it is refused."""

import numpy as np
import pytest
from PIL import Image

from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8))
ARRAY = np.array(RGB)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ([], "list is empty"),
        ([[]], "list is empty"),
        (np.zeros((5, 6, 7), np.uint8), r"shape \(5, 6, 7\), in which no axis looks like colour"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), "without pixels"),
        (Image.new("RGB", (0, 5)), "without pixels"),
        (ARRAY.astype(np.float32), "values from 0.0 to 255.0; expected 0 to 1"),
        (np.full((4, 4), np.nan), "values from nan to nan"),
        (ARRAY.astype(np.int16) - 1, "values from -1 to 254; expected 0 to 255"),
        (Image.new("La", (4, 4)), "cannot convert an image of mode 'La' to RGB"),
    ],
)
def test_wrong_pictures_are_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        TiTokImageProcessorPil()(picture)


@pytest.mark.parametrize("picture", [None, 3, [RGB, {"bytes": b""}], np.array(["a"])[None]])
def test_things_that_are_no_pictures_are_refused(picture):
    with pytest.raises(TypeError, match="Got an image of"):
        TiTokImageProcessorPil()(picture)


def test_a_picture_smaller_than_its_crop_is_refused():
    with pytest.raises(ValueError, match="10 x 12 pixels is too small for a crop of 256 x 256"):
        TiTokImageProcessorPil(do_resize=False)(RGB)


def test_missing_and_broken_files_are_refused(tmp_path):
    processor = TiTokImageProcessorPil()
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        processor(tmp_path / "nothing.png")
    RGB.save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    for name, broken in {"cut.jpg": content[: len(content) // 2], "text.jpg": b"hello", "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(ValueError, match=f"{name} is not an image that Pillow can read"):
            processor(str(tmp_path / name))
