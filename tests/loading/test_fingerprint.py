"""titok_hf.data.fingerprint: a data set that has changed is told from what it was, wherever it lies."""

import shutil

import pytest

from image_sources import image_folder, picture
from titok_hf.data.fingerprint import difference, fingerprint
from titok_hf.data.training_data import open_image_split

NUM_IMAGES = 24  # more than are read of a stream


@pytest.fixture
def source(tmp_path):
    return image_folder(tmp_path / "source", NUM_IMAGES)


def taken(source, streaming=False):
    opened = open_image_split(str(source), streaming=streaming)
    return fingerprint(opened.dataset, opened.digest)


@pytest.mark.parametrize("streaming", [False, True])
def test_it_does_not_depend_on_the_place(source, streaming, tmp_path):
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "copy")
    assert taken(source, streaming) == taken(moved, streaming)
    assert difference(taken(source, streaming), taken(f"{source}/", streaming)) is None


def replace_one(source):
    picture(99).save(source / "coat" / "0009.png")


def swap_two(source):
    first, second = source / "bag" / "0000.png", source / "bag" / "0001.png"
    first.rename(source / "x"), second.rename(first), (source / "x").rename(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: (source / "bag" / "0001.png").unlink(), "it had 24 rows, and now it has 23 rows"),
        (
            lambda source: (source / "bag").rename(source / "hat"),
            "its classes were bag, coat, shirt, and now",
        ),
        (lambda source: (source / "bag/0001.png").rename(source / "bag/0001.jpg"), "files of it are others"),
        (replace_one, "its rows are others"),
        (swap_two, "its rows are others, or in another order"),
    ],
)
def test_a_change_is_seen_and_said(change, message, source):
    then = taken(source)
    change(source)
    assert message in difference(then, taken(source))


def test_a_stream_is_known_by_its_files(source):
    then = taken(source, streaming=True)
    (source / "shirt" / "0023.png").unlink()
    assert "files of it are others" in difference(then, taken(source, streaming=True))
