"""titok_hf.data.decoding: which files become images, and what is said of the others."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from titok_hf.data.decoding import Decoding, UnusableImage


def noise(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def file_of(image, image_format, **options):
    stream = BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_files_decode_without_a_remark(image_format):
    image, remark = Decoding()(file_of(noise(), image_format))
    assert image.mode == "RGB" and image.size == (40, 30) and remark is None


def sixteen_bit_colours():
    """A PNG of one pixel; Pillow reads such files but writes none."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixel = zlib.compress(b"\x00" + struct.pack(">3H", 0xABCD, 0x1234, 0xFFFF))
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


UNUSUAL = {
    "CMYK": file_of(noise("CMYK"), "JPEG"),
    "I;16": file_of(Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16)), "PNG"),
    "F": file_of(Image.fromarray(np.full((4, 4), 7, dtype=np.float32)), "TIFF"),
    "RGB of 16 bits": sixteen_bit_colours(),
}


@pytest.mark.parametrize("mode", UNUSUAL)
def test_unusual_modes_are_skipped_or_converted_with_a_remark(mode):
    with pytest.raises(UnusableImage, match=f"its mode is {mode}"):
        Decoding(unusual_modes="skip")(UNUSUAL[mode])
    for choice in ("scale", "published"):
        image, remark = Decoding(unusual_modes=choice)(UNUSUAL[mode])
        assert image.mode == "RGB" and remark == f"{mode} converted to RGB"


def test_sixteen_bits_are_scaled_or_saturate_as_published():
    scaled, published = (Decoding(unusual_modes=choice)(UNUSUAL["I;16"])[0] for choice in ("scale", "published"))
    assert scaled.getpixel((0, 0)) == (128, 128, 128) and published.getpixel((0, 0)) == (255, 255, 255)
    assert Decoding()(UNUSUAL["RGB of 16 bits"])[0].getpixel((0, 0)) == (0xAB, 0x12, 0xFF)


UNUSABLE = {
    "the file is empty": b"",
    "no image that Pillow can read": b"<html>not found</html>",
    "truncated": file_of(noise(), "JPEG")[:-400],
    "it has 3 frames": file_of(
        noise("P"), "GIF", save_all=True, append_images=[noise("P").rotate(d) for d in (9, 90)]
    ),
    "10000 x 10000 pixels are more than 89,478,485": file_of(Image.new("1", (10_000, 10_000)), "PNG"),
    "20000 x 20000|too many pixels": file_of(Image.new("1", (20_000, 20_000)), "PNG"),
    "values from": file_of(Image.fromarray(np.full((4, 4), -5, dtype=np.int32)), "TIFF"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_files_are_named(reason):
    with pytest.raises(UnusableImage, match=reason):
        Decoding()(UNUSABLE[reason])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_damage_anywhere_ends_in_a_picture_or_a_reason(image_format):
    content = bytearray(file_of(noise(), image_format))
    chance = np.random.default_rng(0)
    for _ in range(150):
        damaged = content.copy()
        for place in chance.integers(0, len(content), 5):
            damaged[place] = chance.integers(256)
        try:
            assert Decoding()(bytes(damaged))[0].mode == "RGB"
        except UnusableImage as error:
            assert str(error)


def test_orientation_is_followed_on_request():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file_of(noise(), "PNG", exif=exif)
    assert Decoding()(content)[0].size == (30, 40)
    assert Decoding(exif_transpose=False)(content)[0].size == (40, 30)


def test_fast_jpeg_keeps_at_least_the_size_that_is_needed():
    content = file_of(noise(size=(800, 600)), "JPEG")
    assert Decoding(fast_jpeg_size=100)(content)[0].size == (200, 150)
    assert Decoding(fast_jpeg_size=300)(content)[0].size == (400, 300)
    assert np.array_equal(Decoding(fast_jpeg_size=500)(content)[0], Decoding()(content)[0])
