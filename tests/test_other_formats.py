"""Readers of other formats: asked in order, before the library, and only about what they know."""

import pytest

from titok_hf import other_formats
from titok_hf.other_formats import ReadsOtherFormats, add_reader

READER = """
def read(cls, source, original_variant=None, **kwargs):
    return ("reader", cls, original_variant, kwargs) if source.startswith("my-") else None
"""


class Library:
    @classmethod
    def from_pretrained(cls, source, *args, **kwargs):
        return ("library", source, args, kwargs)


class Model(ReadsOtherFormats, Library):
    pass


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A module that reads names that start with "my-"; no reader is known yet."""
    (tmp_path / "reader_of_mine.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(other_formats, "_reader_modules", [])
    return "reader_of_mine"


def test_without_readers_the_library_loads(reader):
    assert Model.from_pretrained("my-model", 1, dtype="auto") == ("library", "my-model", (1,), {"dtype": "auto"})


def test_a_reader_goes_first_and_leaves_the_rest_to_the_library(reader):
    add_reader(reader)
    add_reader(reader)
    assert other_formats._reader_modules == [reader]
    assert Model.from_pretrained("my-model", original_variant="a", b=1) == ("reader", Model, "a", {"b": 1})
    assert Model.from_pretrained("other", b=1) == ("library", "other", (), {"b": 1})
