"""titok_hf.data.transforms: equality with the published transforms, to the bit."""

import hashlib
import json
import random
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from golden_fill import image_u8
from titok_hf import image_transforms as transforms
from titok_hf.data.decoding import Decoding
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil

DATA = Path(__file__).parents[1] / "data"
EVAL = json.loads((DATA / "preprocessing_eval.json").read_text())
ADM = json.loads((DATA / "preprocessing_adm.json").read_text())


def sha256(image):
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def source(case):
    width, height = case["width"], case["height"]
    pixels = image_u8(f"pre:a:{width}x{height}", 0, max(width, height), 3)[:height, :width]
    return Image.fromarray(np.ascontiguousarray(pixels))


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def name(case):
    return f"{case['width']}x{case['height']}-{case.get('image_size', 256)}"


@pytest.mark.parametrize("case", EVAL["pictures"], ids=name)
def test_center_square_equals_the_published_evaluation(case):
    assert sha256(transforms.center_crop(source(case), 256)) == case["output_sha256"]


@pytest.mark.parametrize("case", ADM["adm"], ids=name)
def test_adm_square_equals_the_published_one(case):
    assert sha256(transforms.adm_center_crop(source(case), case["image_size"])) == case["sha256"]


@pytest.mark.parametrize("case", ADM["ten_crop"], ids=name)
def test_ten_crop_equals_the_published_one_in_its_order(case):
    assert [sha256(square) for square in transforms.ten_crop(source(case), 256)] == case["sha256"]


def mode_file(mode):
    def channels(number):
        array = image_u8(f"mode:a:{number}", 0, 310, number)[:270, :310]
        return [Image.fromarray(np.ascontiguousarray(array[..., i])) for i in range(number)]

    grey = np.array(channels(1)[0])
    picture = {
        "grayscale_L": lambda: Image.fromarray(grey),
        "RGBA": lambda: Image.merge("RGBA", channels(4)),
        "LA": lambda: Image.merge("LA", channels(2)),
        "palette_P": lambda: Image.merge("RGB", channels(3)).quantize(64, Image.Quantize.MEDIANCUT),
        "bilevel_1": lambda: Image.fromarray(grey > 127),
        "gray16_I16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "exif_rotated_RGB": lambda: Image.merge("RGB", channels(3)),
        "CMYK": lambda: Image.merge("CMYK", channels(4)),
    }[mode]()
    stream = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "exif_rotated_RGB" else 1
    picture.save(stream, "TIFF" if mode == "CMYK" else "PNG", exif=exif)  # PNG knows no CMYK
    return stream.getvalue()


@pytest.mark.parametrize("mode", sorted(EVAL["modes"]))
def test_files_of_all_modes_become_rgb_as_published(mode):
    image, _ = Decoding(exif_transpose=False, unusual_modes="published")(mode_file(mode))
    assert sha256(transforms.center_crop(image, 256)) == EVAL["modes"][mode]


def test_sixteen_bits_may_be_scaled_instead():
    image, _ = Decoding(unusual_modes="scale")(mode_file("gray16_I16"))
    assert sha256(transforms.center_crop(image, 256)) == EVAL["modes"]["grayscale_L"]


@settings(deadline=None, max_examples=40)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    enlarge=st.booleans(),
)
def test_center_square_equals_the_image_processor(width, height, size, enlarge):
    image = noise(width, height)
    processor = TiTokImageProcessorPil(size=size, do_enlarge=enlarge)
    expected = processor.post_process(processor(image, return_tensors="pt").pixel_values)[0]
    if not enlarge:
        image = transforms.center_on_black(image, size)
    assert np.array_equal(transforms.center_crop(image, size), expected)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 2000)])
def test_thin_images_do_not_fill_the_memory(size):
    image = Image.new("RGB", size, (9, 8, 7))
    for square in (transforms.center_crop(image, 64), transforms.adm_center_crop(image, 64)):
        assert np.array_equal(np.unique(np.array(square).reshape(-1, 3), axis=0), [[9, 8, 7]])


@settings(deadline=None, max_examples=40)
@given(width=st.integers(20, 90), height=st.integers(20, 90), seed=st.integers(0, 999))
def test_a_random_square_is_cut_from_the_resized_image(width, height, seed):
    image = noise(width, height)
    square = np.array(transforms.random_crop(image, 16, random.Random(seed)))
    resized = np.array(transforms.resize_shorter_edge(image, 16))
    windows = np.lib.stride_tricks.sliding_window_view(resized, (16, 16, 3))
    assert (windows.reshape(-1, 16, 16, 3) == square).all(axis=(1, 2, 3)).any()


def test_random_squares_reach_both_ends():
    image = Image.fromarray(np.arange(64, dtype=np.uint8)[None].repeat(32, axis=0))
    chance = random.Random(0)
    lefts = {int(np.array(transforms.random_crop(image, 32, chance))[0, 0]) for _ in range(500)}
    assert lefts == set(range(33))


@settings(deadline=None, max_examples=60)
@given(width=st.integers(1, 200), height=st.integers(1, 200), seed=st.integers(0, 999), min_area=st.floats(0.05, 1))
def test_a_random_resized_square_is_one_and_depends_on_chance_alone(width, height, seed, min_area):
    image = noise(width, height)
    first, second = (transforms.random_resized_crop(image, 16, random.Random(seed), min_area) for _ in range(2))
    assert first.size == (16, 16)
    assert np.array_equal(first, second)


def test_the_whole_image_is_a_random_section_of_area_one():
    image = noise(32, 32)
    square = transforms.random_resized_crop(image, 32, random.Random(0), min_area=1, max_ratio=1)
    assert np.array_equal(square, image)
