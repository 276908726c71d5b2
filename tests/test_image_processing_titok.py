"""The image processors: equality with plain Pillow and the original, every kind of picture, and the way back."""

import hashlib
import json
import os
import struct
import warnings
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers.image_utils import SizeDict
from transformers.utils import is_torchvision_available

from golden_fill import image_u8
from titok_hf.data.decoding import Decoding, UnusableImage
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil, center_on_black
from titok_hf.image_processing_titok import TiTokImageProcessor

ORIGINAL = json.loads((Path(__file__).parent / "data" / "preprocessing_eval.json").read_text())
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "I;16", "I;16B", "I", "F"]


def random_picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture of any mode; 16-bit modes use their whole range."""
    random = np.random.default_rng(seed)
    rgb = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode in ("I;16", "I;16B"):
        return Image.frombytes(mode, (width, height), random.bytes(2 * width * height))
    if mode == "I":
        return Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.int32))
    if mode == "PA":
        return rgb.convert("P").convert("PA")
    if mode == "RGBa":
        return rgb.convert("RGBA").convert("RGBa")
    return rgb.convert(mode)


def as_png(picture: Image.Image, **options: object) -> Image.Image:
    stream = BytesIO()
    picture.save(stream, "PNG", **options)
    return Image.open(BytesIO(stream.getvalue()))


def exif_with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def processed(picture: object, **arguments: object) -> np.ndarray:
    """The 8-bit picture that the model sees, (height, width, 3)."""
    size = arguments.pop("size", 256)
    processor = TiTokImageProcessorPil(size=size)
    pixel_values = processor(picture, return_tensors="pt", **arguments).pixel_values
    assert pixel_values.dtype == torch.float32
    assert len(pixel_values) == 1
    return np.array(processor.post_process(pixel_values)[0])


def plain_pillow(picture: Image.Image, size: int) -> np.ndarray:
    """What the processor promises, written down directly."""
    picture = picture.convert("RGB")
    short, long = sorted(picture.size)
    longer = int(size * long / short)
    width, height = (size, longer) if picture.width <= picture.height else (longer, size)
    left, top = int(round((width - size) / 2)), int(round((height - size) / 2))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(picture.crop((left, top, left + size, top + size)))


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_bytes_are_no_model_output():
    for wrong in (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), np.zeros((1, 3, 4, 4), dtype=np.int64)):
        with pytest.raises(ValueError, match=r"int\d*, but floats in \[0, 1\]"):
            TiTokImageProcessorPil().post_process(wrong)


# Equality with the original's evaluation transform


@pytest.mark.parametrize("case", ORIGINAL["pictures"], ids=lambda case: f"{case['width']}x{case['height']}")
def test_pictures_equal_the_originals_bit_for_bit(case):
    width, height = case["width"], case["height"]
    source = image_u8(case["seed"], 0, max(width, height), 3)[:height, :width]
    assert sha256(source) == case["source_sha256"]
    assert sha256(processed(Image.fromarray(source))) == case["output_sha256"]


def original_mode_picture(name: str) -> Image.Image:
    """The source pictures of the original's mode cases."""

    def channels(number: int) -> list[Image.Image]:
        array = image_u8(f"mode:a:{number}", 0, 310, number)[:270, :310]
        return [Image.fromarray(np.ascontiguousarray(array[..., i])) for i in range(number)]

    grey = np.array(channels(1)[0])
    rgb = Image.merge("RGB", channels(3))
    return {
        "grayscale_L": lambda: as_png(Image.fromarray(grey)),
        "RGBA": lambda: as_png(Image.merge("RGBA", channels(4))),
        "LA": lambda: as_png(Image.merge("LA", channels(2))),
        "palette_P": lambda: as_png(rgb.quantize(64, Image.Quantize.MEDIANCUT)),
        "bilevel_1": lambda: as_png(Image.fromarray(grey > 127)),
        "gray16_I16": lambda: as_png(Image.fromarray(grey.astype(np.uint16) * 257)),
        "exif_rotated_RGB": lambda: as_png(rgb, exif=exif_with_orientation(6)),
        "CMYK": lambda: Image.merge("CMYK", channels(4)),
    }[name]()


@pytest.mark.parametrize("name", sorted(set(ORIGINAL["modes"]) - {"gray16_I16"}))
def test_picture_modes_equal_the_originals_bit_for_bit(name):
    output = processed(original_mode_picture(name), do_exif_transpose=False, background="none")
    assert sha256(output) == ORIGINAL["modes"][name]


def test_16_bits_are_scaled_where_the_original_saturates():
    output = processed(original_mode_picture("gray16_I16"))
    assert sha256(output) == ORIGINAL["modes"]["grayscale_L"]
    assert sha256(output) != ORIGINAL["modes"]["gray16_I16"]


# Any picture


@settings(deadline=None)  # a busy machine is no failure
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    mode=st.sampled_from(MODES),
    size=st.integers(1, 33),
    seed=st.integers(0, 9),
)
def test_any_size_and_mode_gives_a_square_in_the_unit_interval(width, height, mode, size, seed):
    processor = TiTokImageProcessorPil(size=size)
    pixel_values = processor(random_picture(width, height, mode, seed), return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, size, size)
    assert pixel_values.dtype == torch.float32
    assert pixel_values.min() >= 0
    assert pixel_values.max() <= 1


@settings(deadline=None)  # a busy machine is no failure
@given(
    width=st.integers(2, 60),
    height=st.integers(2, 60),
    mode=st.sampled_from(["RGB", "L", "CMYK", "RGBA"]),
    size=st.integers(1, 40),
)
def test_processor_equals_plain_pillow(width, height, mode, size):
    picture = random_picture(width, height, mode)
    assert np.array_equal(processed(picture, size=size), plain_pillow(picture, size))


@settings(deadline=None)  # a busy machine is no failure
@given(size=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_square_of_the_right_size_comes_back_unchanged(size, seed):
    picture = random_picture(size, size, seed=seed)
    once = processed(picture, size=size)
    assert np.array_equal(once, np.array(picture))
    assert np.array_equal(processed(Image.fromarray(once), size=size), once)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation, tmp_path):
    picture = as_png(random_picture(9, 6), exif=exif_with_orientation(orientation))
    upright = ImageOps.exif_transpose(picture)
    assert np.array_equal(processed(picture, size=6), plain_pillow(upright, 6))
    assert np.array_equal(processed(picture, size=6, do_exif_transpose=False), plain_pillow(picture, 6))
    picture.save(tmp_path / "turned.png", exif=exif_with_orientation(orientation))
    assert np.array_equal(processed(tmp_path / "turned.png", size=6), plain_pillow(upright, 6))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_transparent_palettes_keep_their_colours(transparency):
    picture = random_picture(8, 8).convert("P")
    transparent = as_png(picture, transparency=transparency)
    assert "transparency" in transparent.info
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = processed(transparent, size=8, background="none")
    assert np.array_equal(output, np.array(picture.convert("RGB")))


def transparent_pictures() -> dict[str, Image.Image]:
    """One colour behind alpha from 0 to 255, in every mode that files have it in."""
    alpha = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    rgba = Image.merge("RGBA", [Image.new("L", (16, 16), value) for value in (200, 30, 60)] + [alpha])
    rgb = Image.new("RGB", (16, 16), (200, 30, 60))
    rgb.paste((0, 9, 0), (0, 0, 8, 16))
    grey = Image.merge("LA", [Image.new("L", (16, 16), 80), alpha])
    return {
        "RGBA": rgba,
        "LA": grey,
        "P": as_png(rgb.quantize(2), transparency=bytes([0, 128])),
        "RGB": as_png(rgb, transparency=(0, 9, 0)),
        "L": as_png(rgb.convert("L"), transparency=rgb.convert("L").getpixel((0, 0))),
    }


@pytest.mark.parametrize("background", ["white", "#102030"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparent_pixels_are_laid_on_the_background(mode, background):
    picture = transparent_pictures()[mode]
    rgba = np.array(picture.convert("RGBA")).astype(float)
    colour = np.array({"white": (255, 255, 255), "#102030": (16, 32, 48)}[background])
    share = rgba[..., 3:] / 255
    expected = rgba[..., :3] * share + colour * (1 - share)
    for image in (picture, np.array(picture.convert("RGBA")), np.array(picture.convert("RGBA")) / 255):
        output = processed(image, size=16, background=background)
        assert np.abs(output - expected).max() <= 0.5001
    file = BytesIO()
    picture.save(file, "PNG")
    decoded = Decoding(background=background).decode(file.getvalue())
    assert np.array_equal(decoded.image, output) and decoded.is_transparent


def test_the_background_is_saved_and_must_be_a_colour(tmp_path):
    processor = TiTokImageProcessorPil(size=4, background="none")
    processor.save_pretrained(tmp_path)
    assert TiTokImageProcessorPil.from_pretrained(tmp_path).background == "none"
    with pytest.raises(ValueError, match="background is 'nocolour'"):
        processor(Image.new("RGBA", (4, 4)), background="nocolour")


def broken_pictures() -> dict[str, bytes]:
    """Files that Pillow opens and cannot read, or should not."""
    whole = BytesIO()
    random_picture(64, 64).save(whole, "JPEG")
    bomb = BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    return {"truncated": whole.getvalue()[:-400], "pixels; the limit is": bomb.getvalue()}


@pytest.mark.parametrize("reason", ["truncated", "pixels; the limit is"])
def test_a_picture_that_is_not_loaded_yet_raises_what_its_path_raises(reason, tmp_path):
    path = tmp_path / "broken"
    path.write_bytes(broken_pictures()[reason])
    url = "data:image/png;base64," + b64encode(path.read_bytes()).decode()
    for picture in (path, Image.open(path), url):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            processed(picture)


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, MemoryError, struct.error])
def test_whatever_pillow_raises_is_an_unreadable_picture(error, tmp_path, monkeypatch):
    """Which of its formats raises which exception depends on its version, so one is made to."""

    def load(self):
        raise error

    random_picture(4, 4).save(tmp_path / "picture.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", load)
    for picture in (tmp_path / "picture.png", Image.open(tmp_path / "picture.png")):
        with pytest.raises(ValueError, match=error.__name__):
            processed(picture)
    with pytest.raises(UnusableImage, match=error.__name__):
        Decoding()((tmp_path / "picture.png").read_bytes())


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match="is no file"):
        processed(tmp_path / "pipe.png")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 100_000), (100_000, 1), (3, 2000), (6000, 5000)])
def test_tiny_huge_and_thin_pictures_work(width, height):
    picture = Image.new("RGB", (width, height), (10, 20, 30))
    assert np.array_equal(np.unique(processed(picture).reshape(-1, 3), axis=0), [[10, 20, 30]])


@pytest.mark.parametrize("turn", [False, True])
def test_of_a_thin_picture_the_middle_is_kept(turn):
    column = np.zeros((2001, 1, 3), dtype=np.uint8)
    column[1000] = 255
    picture = np.swapaxes(column, 0, 1) if turn else column
    output = processed(Image.fromarray(picture), size=3)
    assert (output.reshape(3, 3, 3)[1, 1] == 255).all()
    assert output.astype(int).sum() < 255 * 27


# Arrays, tensors, files, batches


RGB = random_picture(12, 10)
ARRAY = np.array(RGB)


@pytest.mark.parametrize(
    "picture",
    [
        ARRAY,
        ARRAY.transpose(2, 0, 1),
        ARRAY.astype(np.int64),
        ARRAY.astype(np.uint16) * 257,
        ARRAY.astype(np.float32) / 255,
        ARRAY / 255,
        np.concatenate([ARRAY, np.full_like(ARRAY[..., :1], 255)], axis=-1),
        torch.from_numpy(ARRAY),
        torch.from_numpy(ARRAY).permute(2, 0, 1) / 255,
        torch.from_numpy(ARRAY).permute(2, 0, 1).double().div(255).requires_grad_(),
        ARRAY[None],
        [[ARRAY]],
        (RGB,),
    ],
    ids=lambda picture: f"{type(picture).__name__}-{getattr(picture, 'dtype', '')}-{getattr(picture, 'shape', '')}",
)
def test_arrays_equal_the_picture(picture):
    assert np.array_equal(processed(picture, size=7), processed(RGB, size=7))


@pytest.mark.parametrize("grey", [ARRAY[..., 0], ARRAY[..., :1], ARRAY[None, ..., 0], torch.from_numpy(ARRAY[..., 0])])
def test_grey_arrays_become_rgb(grey):
    assert np.array_equal(processed(grey, size=7), processed(Image.fromarray(ARRAY[..., 0].copy()), size=7))


def test_booleans_are_black_and_white():
    grey = ARRAY[..., 0] > 127
    assert np.array_equal(processed(grey, size=7), processed(Image.fromarray(grey), size=7))


def test_bfloat16_tensors_work():
    white = torch.ones(3, 4, 4, dtype=torch.bfloat16)
    assert (processed(white, size=4) == 255).all()


def test_ambiguous_axes_follow_input_data_format():
    picture = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    last = processed(picture, size=3, input_data_format="channels_last")
    assert np.array_equal(last, processed(Image.fromarray(picture), size=3))


def test_a_batch_may_mix_kinds_and_sizes(tmp_path):
    RGB.save(tmp_path / "picture.png")
    mixed = [RGB, ARRAY, str(tmp_path / "picture.png"), [random_picture(30, 5), random_picture(4, 9, "CMYK")]]
    pixel_values = TiTokImageProcessorPil(size=6)(mixed, return_tensors="pt").pixel_values
    assert pixel_values.shape == (5, 3, 6, 6)
    assert torch.equal(pixel_values[0], pixel_values[1])
    assert torch.equal(pixel_values[0], pixel_values[2])


def test_data_urls_work():
    stream = BytesIO()
    RGB.save(stream, "PNG")
    text = b64encode(stream.getvalue()).decode()
    lines = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))  # as in mails
    for same in ("data:image/png;base64," + text, text, lines, stream.getvalue(), bytearray(stream.getvalue())):
        assert np.array_equal(processed(same, size=7), processed(RGB, size=7))


@pytest.mark.parametrize("name", ["missing.png", "photos/cats12", "data:image/png;base64,abcd", "A" * 10_000, ""])
def test_what_is_neither_a_file_nor_base64_is_refused_in_one_short_sentence(name):
    with pytest.raises(FileNotFoundError, match="is no file, nor the base64 text of an image") as error:
        processed(name)
    assert len(str(error.value)) < 300 and name[:10] in str(error.value)


def test_bytes_that_are_no_picture_are_refused():
    with pytest.raises(ValueError, match="The data is not an image that Pillow can read"):
        processed(b"<html>")


# Settings


def test_settings_survive_saving(tmp_path):
    processor = TiTokImageProcessorPil(size=32, do_exif_transpose=False)
    processor.save_pretrained(tmp_path)
    reloaded = TiTokImageProcessorPil.from_pretrained(tmp_path)
    assert reloaded.to_dict() == processor.to_dict()
    assert dict(reloaded.crop_size) == {"height": 32, "width": 32}
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "TiTokImageProcessor"  # one file for both backends


def test_a_size_of_the_call_brings_its_own_crop():
    processor = TiTokImageProcessorPil()
    assert processor(RGB, size=8)["pixel_values"][0].shape == (3, 8, 8)
    assert processor(RGB, size=8, crop_size=6)["pixel_values"][0].shape == (3, 6, 6)
    assert processor(RGB, size={"height": 4, "width": 9})["pixel_values"][0].shape == (3, 4, 9)
    assert processor(RGB)["pixel_values"][0].shape == (3, 256, 256)


def test_steps_can_be_left_out():
    processor = TiTokImageProcessorPil(do_resize=False, do_center_crop=False, do_rescale=False, do_convert_rgb=False)
    assert np.array_equal(processor(ARRAY)["pixel_values"][0], ARRAY.transpose(2, 0, 1))
    assert np.array_equal(processor(RGB.convert("L"))["pixel_values"][0], np.array(RGB.convert("L"))[None])
    assert processor(random_picture(4, 4, "1"))["pixel_values"][0].max() == 255


# The way back


def test_post_process_clamps_rounds_and_keeps_the_order_of_axes():
    processor = TiTokImageProcessorPil()
    pixel_values = (
        torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 7.0]).view(1, 1, 2, 3).repeat(1, 3, 1, 1)
    )
    (picture,) = processor.post_process(pixel_values)
    assert picture.mode == "RGB"
    assert np.array(picture)[..., 0].tolist() == [[0, 0, 0], [1, 255, 255]]
    array = processor.post_process(pixel_values.numpy(), output_type="np")
    assert array.shape == (1, 2, 3, 3)
    assert array.dtype == np.float32
    tensor = processor.post_process(pixel_values.bfloat16().requires_grad_(), output_type="pt")
    assert torch.equal(tensor, pixel_values.bfloat16().float().clamp(0, 1))
    assert not tensor.requires_grad


def test_one_channel_becomes_a_grey_picture():
    (picture,) = TiTokImageProcessorPil().post_process(torch.ones(1, 1, 2, 3))
    assert (picture.mode, picture.size) == ("L", (3, 2))


@pytest.mark.parametrize(
    ("pixel_values", "output_type", "message"),
    [
        (torch.rand(1, 3, 2, 2), "png", 'output_type is \'png\'; expected "pil", "np" or "pt"'),
        (torch.rand(3, 2, 2), "pil", r"shape \(3, 2, 2\)"),
        (torch.rand(1, 4, 2, 2), "pil", r"shape \(1, 4, 2, 2\)"),
        (torch.full((1, 3, 2, 2), torch.nan), "pil", "not finite"),
    ],
)
def test_wrong_model_output_is_refused(pixel_values, output_type, message):
    with pytest.raises(ValueError, match=message):
        TiTokImageProcessorPil().post_process(pixel_values, output_type=output_type)


# The torchvision twin


def test_the_twin_shares_everything_before_the_resampling():
    twin = object.__new__(TiTokImageProcessor)  # __init__ refuses to work without torchvision
    tensor = twin.process_image(RGB.convert("CMYK"), do_convert_rgb=True, do_exif_transpose=True)
    assert torch.equal(tensor, torch.from_numpy(np.array(RGB)).permute(2, 0, 1))
    assert torch.equal(twin.center_crop(tensor, SizeDict(height=7, width=12)), tensor[:, 2:9])


def test_without_torchvision_the_twin_is_named():
    if is_torchvision_available():
        assert TiTokImageProcessor(size=6)(RGB, return_tensors="pt").pixel_values.shape == (1, 3, 6, 6)
    else:
        with pytest.raises(ImportError, match="TiTokImageProcessorPil"):
            TiTokImageProcessor()


# Small pictures that keep their pixels


@pytest.mark.parametrize(("width", "height"), [(28, 28), (27, 28), (20, 40), (1, 1)])
def test_a_small_picture_that_is_not_enlarged_lies_on_black(width, height):
    picture = random_picture(width, height)
    canvas = Image.new("RGB", (max(width, 32), max(height, 32)))
    canvas.paste(picture, ((canvas.width - width) // 2, (canvas.height - height) // 2))
    assert (processed(picture, size=32, do_enlarge=False) == plain_pillow(canvas, 32)).all()


@pytest.mark.parametrize(("width", "height"), [(32, 32), (40, 60), (500, 300)])
def test_larger_pictures_are_resized_whether_or_not_small_ones_are_enlarged(width, height):
    picture = random_picture(width, height)
    assert (processed(picture, size=32, do_enlarge=False) == processed(picture, size=32)).all()


def test_small_pictures_as_tensors_lie_on_black_too():
    # The torchvision backend hands tensors to the same function.
    image = torch.randint(1, 255, (3, 27, 28), dtype=torch.uint8)
    assert (center_on_black(image, 32).numpy() == center_on_black(image.numpy(), 32)).all()
    assert center_on_black(image, 32).shape == (3, 32, 32)
