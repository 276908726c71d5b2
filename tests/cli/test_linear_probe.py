"""titok_hf.cli.linear_probe: accuracies with what they depend on, that another report can be compared with."""

import json

import pytest
from typer.testing import CliRunner

from image_sources import image_folder
from tiny_pipeline import tiny_pipeline
from titok_hf.cli.application import app
from titok_hf.evaluation.numbers import read_report


@pytest.fixture
def files(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    for split in ("train", "test"):
        image_folder(tmp_path / "images" / split, 12)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", "linear-probe", *map(str, arguments)])


def test_accuracies_come_with_what_they_depend_on(files):
    output = files / "probe.json"
    result = run(files / "model", files / "images", "--num-train", 9, "--json", "-o", output)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads(output.read_text())
    assert len(printed["numbers"]) == 4 and all(0 <= value <= 1 for value in printed["numbers"].values())
    assert (
        "L2 0.0001" in printed["convention"]["method"] and "9 images of split train" in printed["convention"]["method"]
    )
    assert printed["convention"]["num_images"] == 12 and printed["convention"]["split"] == "test"
    assert [each["num_features"] for each in printed["probes"]] == [32, 256, 4, 32]
    first = read_report(output).numbers["probe_accuracy_encoder_mean"]
    run(files / "model", files / "images", "--num-train", 6, "-o", output)
    with pytest.raises(ValueError, match="differ in method"):
        first.minus(read_report(output).numbers["probe_accuracy_encoder_mean"])


def test_images_without_labels_are_refused(files, tmp_path):
    flat = tmp_path / "flat"
    for split in ("train", "test"):
        (flat / split).mkdir(parents=True)
        for path in (files / "images" / split).rglob("*.png"):
            path.rename(flat / split / path.name)
    result = run(files / "model", flat)
    assert result.exit_code != 0 and "label" in result.stderr and "Traceback" not in result.stderr
