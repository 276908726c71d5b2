"""titok_hf.cli.sweep: settings into a table and a plot, and the best of them into the model."""

import csv
import json

import pytest
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification
from typer.testing import CliRunner

from image_sources import image_folder
from tiny_pipeline import tiny_pipeline
from titok_hf.cli.application import app
from titok_hf.evaluation.sweep import setting_of
from titok_hf.pipeline_titok import TiTokPipeline


@pytest.fixture
def files(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    image_folder(tmp_path / "images" / "train", 6)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path / "network")
    return tmp_path


def run(files, *options):
    arguments = [files / "model", files / "images", "--network", files / "network", "-o", files / "out", "-n", 4]
    return CliRunner().invoke(app, ["sweep", *map(str, [*arguments, *options])])


def test_settings_become_a_table_a_plot_and_the_model_s_default(files):
    options = ["--guidance-scale", "0,2.5", "--guidance-interval", "all,0.25:0.75", "--steps", "2"]
    result = run(files, *options, "--json", "--write-best")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    with (files / "out" / "sweep.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["guidance_scale"], row["guidance_interval"]) for row in rows] == [
        ("0.0", "all"),
        ("0.0", "0.25:0.75"),
        ("2.5", "all"),
        ("2.5", "0.25:0.75"),
    ]
    assert printed["distance"] == min(float(row["distance"]) for row in rows)
    assert Image.open(files / "out" / "sweep.png").size[0] > 500
    assert setting_of(TiTokPipeline.from_pretrained(files / "model").scheduler) == printed["best"]
    assert printed["best"]["num_inference_steps"] == 2
    assert "weights" in printed["convention"]["network"] and printed["convention"]["num_images"] == 4
    # The same command again measures nothing: rows, with their speeds, are the ones of before.
    again = run(files, *options, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["best"] == printed["best"]
    with (files / "out" / "sweep.csv").open() as table:
        assert list(csv.DictReader(table)) == rows


def test_samplers_and_kinds_of_guidance_are_axes(files):
    options = ["--sampler", "confidence,remdm", "--guidance", "classifier-free,previous-step", "--steps", "2"]
    result = run(files, *options, "--json", "--write-best")
    assert result.exit_code == 0, result.output
    with (files / "out" / "sweep.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["sampler"], row["guidance"]) for row in rows] == [
        ("confidence", "classifier-free"),
        ("confidence", "previous-step"),
        ("remdm", "classifier-free"),
        ("remdm", "previous-step"),
    ]
    scheduler = TiTokPipeline.from_pretrained(files / "model").scheduler
    assert scheduler.config.sampler == json.loads(result.stdout)["best"]["sampler"]


def test_text_for_people_shows_the_convention(files):
    result = run(files, "--temperature", "1,4", "--search", "hill-climb")
    assert result.exit_code == 0, result.output
    assert "Fréchet distance" in result.stdout and "evenly spaced" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no values to try"),
        (["--guidance-scale", "1,two"], "'1,two'"),
        (["--guidance-interval", "0.8:0.2"], 'the smaller one first, such as "0.2:0.8", or "all"'),
        (["--steps", "0"], "--steps is 0"),
        (["--mask-schedule", "sine"], "sine"),
        (["--sampler", "best"], "'best'"),
        (["--guidance", "autoguidance"], "a sweep has no weaker generator"),
        (["--eta", "2"], "eta is 2.0. Use at least 0"),
        (["--guidance-scale", "1", "--split", "dev"], "dev"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_the_work(options, message, files):
    result = run(files, *options)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split()) and "Traceback" not in result.stderr
    assert not (files / "out" / "sweep.csv").exists()


def test_only_a_folder_s_default_can_be_written(files):
    result = CliRunner().invoke(
        app,
        ["sweep", "user/model", str(files / "images"), "--network", "x", "--temperature", "1", "--write-best"],
    )
    assert result.exit_code != 0 and "no folder of a pipeline" in " ".join(result.stderr.split())
