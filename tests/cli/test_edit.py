"""`titok-hf edit`, and the formats of image files that all commands share."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tiny_pipeline import tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf.cli import app
from titok_hf.pipeline_titok import TiTokPipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a tiny pipeline, a KL tokenizer, two images and a mask for them."""
    folder = tmp_path_factory.mktemp("edit")
    tiny_pipeline().save_pretrained(folder / "model")
    TiTokPipeline(tiny_tokenizer(quantizer="kl"), tiny_image_processor()).save_pretrained(folder / "kl")
    for number, name in enumerate(("first", "second")):
        values = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{name}.png")
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[10:20, 10:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:32]).save(folder / "other-size.png")
    Image.fromarray(mask // 2).save(folder / "grey.png")
    Image.fromarray(mask * 0).save(folder / "black.png")
    return folder


def run(files, *arguments):
    named = [str(files / each) if (files / str(each)).exists() else str(each) for each in arguments]
    return CliRunner().invoke(app, [*named, "--device", "cpu"])


def answer(files, *arguments):
    result = run(files, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("command", "classes"), [("variations", ["tabby"]), ("class", ["tabby", "2"])])
def test_codes_are_resampled_given_a_class(command, classes, files, tmp_path):
    options = [word for name in classes for word in ("--class", name)]
    made = answer(files, "edit", command, "first.png", "second.png", *options, "-n", 2, "-m", "model", "-o", tmp_path)
    pictures = made["images"]
    assert len(pictures) == 4 * len(classes)
    assert [picture["original"] for picture in pictures][:2] == [str(files / "first.png")] * 2
    assert {picture["label"] for picture in pictures} == ({0} if command == "variations" else {0, 2})
    assert pixels(pictures[0]["file"]).shape == (32, 32, 3)
    assert Image.open(made["contact_sheet"]).format == "PNG"
    first = pixels(pictures[0]["file"])
    # An image depends on the seed, its source and its number, not on what is made beside it.
    alone = answer(
        files, "edit", command, "first.png", *options, "-n", 1, "-m", "model", "-o", tmp_path / "alone", "--no-grid"
    )
    assert np.array_equal(pixels(alone["images"][0]["file"]), first)
    assert alone["contact_sheet"] is None
    assert len(list((tmp_path / "alone").iterdir())) == len(classes)


@pytest.mark.parametrize("model", ["model", "kl"])
def test_inpainting_keeps_what_is_known(model, files, tmp_path):
    command = ["edit", "inpaint", "first.png", "second.png", "--mask", "mask.png", "--iterations", 3]
    made = answer(files, *command, "-m", model, "-o", tmp_path)
    pipe = tiny_pipeline()
    for picture in made["images"]:
        given, masks = pipe.images_with_masks(picture["original"], picture["mask"])
        known = pixels(picture["file"])[~masks[0, 0].numpy()]
        assert np.array_equal(known, pixels_of(given)[~masks[0, 0].numpy()])
    assert made["iterations"] == 3 and len(made["images"]) == 2


def pixels_of(pixel_values):
    return (pixel_values[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def test_inpainting_with_a_class_begins_with_the_generator(files, tmp_path):
    command = ["edit", "inpaint", "first.png", "--mask", "mask.png", "--iterations", 1, "-m", "model"]
    without = answer(files, *command, "-o", tmp_path / "a")
    given = answer(files, *command, "--class", "2", "-o", tmp_path / "b")
    assert not np.array_equal(*(pixels(made["images"][0]["file"]) for made in (without, given)))


def test_interpolation_writes_the_images_between(files, tmp_path):
    made = answer(files, "edit", "interpolate", "first.png", "second.png", "-n", 3, "-m", "model", "-o", tmp_path)
    assert [picture["weight"] for picture in made["images"]] == [0, 0.5, 1]
    again = answer(files, "reconstruct", "first.png", "-m", "model", "-o", tmp_path / "again")
    assert np.array_equal(pixels(made["images"][0]["file"]), pixels(again["images"][0]["file"]))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("32 x 40 pixels", ["inpaint", "first.png", "--mask", "other-size.png"]),
        ("values 0, 127", ["inpaint", "first.png", "--mask", "grey.png"]),
        ("marks no pixel", ["inpaint", "first.png", "--mask", "black.png"]),
        ("2 masks for 1 images", ["inpaint", "first.png", "--mask", "mask.png", "--mask", "mask.png"]),
        ("nowhere.png does not exist", ["inpaint", "first.png", "--mask", "nowhere.png"]),
        ("nowhere.png does not exist", ["interpolate", "first.png", "nowhere.png"]),
        ("CLASS is 'dog'", ["variations", "first.png", "--class", "dog"]),
        ("strength is 1.5", ["class", "first.png", "--class", "0", "--strength", "1.5"]),
        ("tokenizer alone", ["inpaint", "first.png", "--mask", "mask.png", "--class", "0", "-m", "kl"]),
        ("tokenizer alone", ["variations", "first.png", "--class", "0", "-m", "kl"]),
        (
            'a KL tokenizer has none. Use "latents"',
            ["interpolate", "first.png", "second.png", "--space", "codes", "-m", "kl"],
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_writes_no_image(message, arguments, files, tmp_path):
    model = [] if "-m" in arguments else ["-m", "model"]
    result = run(files, "edit", *arguments, *model, "-o", tmp_path / "out")
    assert result.exit_code == 1 and not result.stdout
    assert len(result.stderr.strip().splitlines()) == 1 and message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_result_never_overwrites_an_image_that_is_read(files, tmp_path):
    Image.open(files / "first.png").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a-tabby-000.png")
    Image.open(files / "first.png").save(tmp_path / "a.png")
    inputs = tmp_path / "a.png", tmp_path / "a-tabby-000.png"
    result = run(files, "edit", "variations", *inputs, "--class", "tabby", "-m", "model", "-o", tmp_path)
    assert result.exit_code == 1 and "would be overwritten" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("image_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpg", "JPEG")])
def test_every_format_is_what_its_name_says(image_format, name, files, tmp_path):
    command = ["reconstruct", "first.png", "-m", "model", "-o", tmp_path / "png"]
    exact = pixels(answer(files, *command)["images"][0]["file"])
    made = answer(files, *command[:-1], tmp_path / image_format, "--format", image_format)
    path = made["images"][0]["file"]
    assert path.endswith(f".{image_format}") and Image.open(path).format == name
    difference = np.abs(pixels(path).astype(int) - exact)
    assert (difference.max() == 0) == (image_format != "jpg") and difference.mean() < 4


def test_all_commands_that_make_images_share_their_options(files, tmp_path):
    """--format, --grid and --dtype, wherever images are written."""
    codes = tmp_path / "codes.safetensors"
    answer(files, "encode", "first.png", "-m", "model", "-o", codes, "--dtype", "bfloat16")
    for number, command in enumerate((["generate", "0"], ["reconstruct", "first.png"], ["decode", codes])):
        folder = tmp_path / str(number)
        options = ["--format", "webp", "--no-grid", "--dtype", "bfloat16"]
        made = answer(files, *command, "-m", "model", "-o", folder, *options)
        assert {path.suffix for path in folder.iterdir()} == {".webp"} and made["contact_sheet"] is None
