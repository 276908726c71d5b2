"""`titok-hf prepare` and `titok-hf pretokenize` as a user meets them."""

import json

import numpy as np
import pytest
from datasets import load_dataset

from commands import run
from image_sources import image_folder, picture
from tiny_pipeline import tiny_pipeline


def words(text):
    """A panel's text without its frame and line breaks."""
    return " ".join(text.replace("│", " ").split())


@pytest.fixture
def source(tmp_path):
    return image_folder(tmp_path / "source [1]", 9, broken=(4,))


def test_prepare_then_pretokenize(source, tmp_path):
    prepared, codes, model = tmp_path / "prepared", tmp_path / "codes", tmp_path / "tiny"
    tiny_pipeline().save_pretrained(model)
    options = ("--size", 32, "--format", "png", "--workers", 0)
    result = run("prepare", source, "-o", prepared, *options)
    assert result.exit_code == 0, result.output
    assert "8 rows of 9 images" in result.stdout and "1 left out:" in result.stdout
    assert "it is no image that Pillow can read" in words(result.stdout)
    result = run("pretokenize", prepared, "-o", codes, "-m", model, "--views", "flip", "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "16 rows of 8 images" in result.stdout
    dataset = load_dataset(str(codes), split="train")
    assert dataset["source_index"][::2] == [0, 1, 2, 3, 5, 6, 7, 8]
    expected = tiny_pipeline().encode([picture(n) for n in (0, 1, 2, 3, 5, 6, 7, 8)])
    assert np.array_equal(np.array(dataset["codes"][::2]), expected)


def test_parts_say_that_others_are_missing(source, tmp_path):
    options = ("-o", tmp_path / "out", "--size", 32, "--workers", 0, "--shard-size", 4)
    result = run("prepare", source, *options, "--part", "1/2")
    assert result.exit_code == 0 and "other parts are not complete yet" in words(result.stdout)
    result = run("prepare", source, *options, "--part", "0/2")
    assert "complete yet" not in words(result.stdout) and "8 rows of 9 images" in result.stdout


def test_no_row_left_is_an_error_and_lists_why(tmp_path):
    source = image_folder(tmp_path / "source", 2, broken=(0, 1))
    result = run("prepare", source, "-o", tmp_path / "out", "--workers", 0)
    assert result.exit_code == 1 and "None of the 2 images can be used; the first is image 0" in words(result.stderr)
    assert len(json.loads((tmp_path / "out" / "report-train.json").read_text())["skipped"]) == 2


def test_what_was_not_used_is_shown(tmp_path):
    source = image_folder(tmp_path / "source", 3)
    picture(4).save(source / "logo.png")
    result = run("prepare", source, "-o", tmp_path / "out", "--workers", 0, "--background", "black")
    assert result.exit_code == 0, result.output
    assert "not used of the source (1): logo.png: an image above" in words(result.stdout)


def test_errors_are_one_line(source, tmp_path):
    out = tmp_path / "out"
    for message, *arguments in (
        ("image 4", source, "--on-error", "stop"),
        ("does not exist", tmp_path / "nowhere"),
        ("no column 'photo'", source, "--image-column", "photo"),
        ("names no part", source, "--part", "2"),
        ("does not exist; parts", source, "--part", "2/2"),
    ):
        result = run("prepare", *arguments, "-o", out, "--workers", 0)
        assert result.exit_code == 1 and message in result.stderr, result.output
        assert len(result.stderr.strip().splitlines()) == 1
    assert not list(out.rglob("*.parquet"))


def test_the_earlier_name_of_dtype_still_works(source, tmp_path):
    model = tmp_path / "tiny"
    tiny_pipeline().save_pretrained(model)
    for folder, option, value in (("new", "--dtype", "bfloat16"), ("old", "--precision", "bf16")):
        result = run("pretokenize", source, "-o", tmp_path / folder, "-m", model, "--workers", 0, option, value)
        assert result.exit_code == 0, result.output
        assert ("--precision bf16 is now called --dtype" in result.stderr) == (folder == "old")
    new, old = (load_dataset(str(tmp_path / folder), split="train")["codes"] for folder in ("new", "old"))
    assert list(new) == list(old)
    assert "--precision" not in run("pretokenize", "--help").stdout
