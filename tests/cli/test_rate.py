"""titok_hf.cli.rate: numbers, plots and maps, and one sentence for what is wrong."""

import json

import pytest
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification
from typer.testing import CliRunner

from image_sources import image_folder
from tiny_pipeline import tiny_pipeline, tiny_tokenizer
from titok_hf.cli.application import app


@pytest.fixture
def files(tmp_path):
    for run in ("first", "second"):
        tiny_pipeline().save_pretrained(tmp_path / run / "model")
    image_folder(tmp_path / "images" / "test", 6)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_models_stand_beside_jpeg_and_webp(files):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(files / "network")
    models = files / "first" / "model", files / "second" / "model"
    options = ["--network", files / "network", "-o", files / "out", "-n", 5, "--json"]
    result = run("rate", *models, files / "images", *options)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    names = [point["codec"] for point in printed["points"]]
    assert names[:2] == ["first/model", "second/model"] and "JPEG 80" in names and "WebP 95" in names
    assert printed["points"][0]["bits_per_image"] == 32 and printed["points"][0]["frechet_distance"] > 0
    assert json.loads((files / "out" / "rate.json").read_text())["points"] == printed["points"]
    assert Image.open(files / "out" / "rate.png").size[0] > 1000
    assert "split test" in printed["convention"]["images"] and "weights" in printed["convention"]["network"]


def test_without_a_network_the_distance_is_left_out(files):
    result = run("rate", files / "first" / "model", files / "images", "-o", files / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((files / "out" / "rate.json").read_text())["points"][0]["frechet_distance"] is None


def test_models_that_cannot_be_compared_are_refused(files):
    tiny_tokenizer(image_size=16).save_pretrained(files / "small")
    result = run("rate", files / "first" / "model", files / "small", files / "images", "-o", files / "out")
    assert result.exit_code != 0 and "one image size" in " ".join(result.stderr.split())
    model = files / "first" / "model"
    result = run("rate", model, model, files / "images", "-o", files / "out")
    assert result.exit_code != 0 and "called alike" in " ".join(result.stderr.split())
    tiny_tokenizer(quantizer="kl").save_pretrained(files / "kl")
    result = run("rate", files / "kl", files / "images", "-o", files / "out")
    assert result.exit_code != 0 and "KL" in result.stderr


def test_each_token_has_a_map(files):
    output = files / "map.png"
    result = run("token-map", files / "first" / "model", files / "images", "-o", output, "--json")
    assert result.exit_code == 0, result.output
    tokens = json.loads(result.stdout)["tokens"]
    assert len(tokens) == 8 and all(0 <= token["area"] <= 1 for token in tokens)
    assert any(token["influence"] > 0 for token in tokens)
    width, height = Image.open(output).size
    assert width > 8 * 32 and height > 32
