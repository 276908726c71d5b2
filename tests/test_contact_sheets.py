"""Contact sheets."""

import numpy as np
import pytest
from PIL import Image

from titok_hf.contact_sheets import contact_sheet, paired_contact_sheet

COLOURS = ["red", "lime", "blue", "yellow", "cyan"]


def images(size=(8, 8)):
    return [Image.new("RGB", size, colour) for colour in COLOURS]


def colours_at(sheet, scale, size=8, gap=4):
    """The colour in the middle of each cell of a sheet without labels."""
    step = size * scale + gap
    pixels = np.asarray(sheet)
    return pixels[gap + size * scale // 2 :: step, gap + size * scale // 2 :: step]


def test_images_go_from_left_to_right_and_top_to_bottom():
    sheet = contact_sheet(images(), columns=3, scale=2)
    assert sheet.size == (4 + 3 * 20, 4 + 2 * 20)
    expected = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in [*COLOURS, "white"]]
    assert colours_at(sheet, scale=2).reshape(-1, 3).tolist() == [list(colour) for colour in expected]


def test_small_images_are_enlarged_without_smoothing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    sheet = contact_sheet([image], columns=1)
    assert sheet.size == (128 + 8, 128 + 8)
    assert np.array_equal(np.asarray(sheet)[4:132:4, 4:132:4], np.asarray(image))


def test_large_images_keep_their_size():
    assert contact_sheet(images((300, 200))[:1], columns=1).size == (308, 208)


def test_labels_stand_in_a_margin():
    plain, labelled = (contact_sheet(images(), columns=5, labels=labels) for labels in (None, ["a long label"]))
    assert labelled.width > plain.width + 40 and labelled.height == plain.height
    assert np.asarray(labelled)[:, : labelled.width - plain.width].min() < 100  # something is written there


def test_grey_images_are_shown():
    assert contact_sheet([Image.new("L", (8, 8), 128)], columns=1, scale=1).getpixel((8, 8)) == (128, 128, 128)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"images": [], "columns": 1}, "list is empty"),
        ({"images": images(), "columns": 0}, "columns is 0"),
        ({"images": [*images(), Image.new("RGB", (9, 8))], "columns": 1}, r"\(8, 8\) and \(9, 8\)"),
        ({"images": images(), "columns": 2, "labels": ["one"]}, "1 labels were given for 3 rows"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(**arguments)


def test_pairs_have_the_labels_of_their_rows_and_white_at_the_end():
    pairs = paired_contact_sheet(images(), images()[::-1], columns=3)
    white = Image.new("RGB", (8, 8), "white")
    cells = [*images()[:3], *images()[:1:-1], *images()[3:], white, *images()[1::-1], white]
    assert np.array_equal(pairs, contact_sheet(cells, 3, labels=["original", "TiTok"] * 2))
