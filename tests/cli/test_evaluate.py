"""titok_hf.cli.evaluate: numbers with what they depend on, and one sentence for what is wrong."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from titok_hf.cli.application import app
from titok_hf.evaluation.inception import InceptionNetwork, file_digest


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8), np.arange(4))
    np.savez(tmp_path / "reference.npz", rng.integers(0, 128, (5, 8, 8, 3), dtype=np.uint8))
    torch.save(InceptionNetwork().state_dict(), tmp_path / "weights.pth")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", "npz", *map(str, arguments)])


@pytest.mark.slow
def test_numbers_come_with_what_they_depend_on(files):
    output = files / "numbers.json"
    weights = files / "weights.pth"
    result = run(files / "samples.npz", files / "reference.npz", "--weights", weights, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    printed, written = json.loads(result.stdout), json.loads(output.read_text())
    assert printed == written
    assert {"fid", "sfid", "inception_score", "precision", "recall"} == written["numbers"].keys() - {
        "inception_score_std"
    }
    convention = written["convention"]
    assert (written["samples"], convention["reference"]) == ("samples.npz", "reference.npz")
    assert (convention["num_images"], convention["num_reference_images"]) == (4, 5)
    assert file_digest(weights) in convention["network"]
    assert "sorted" in written["warnings"][0] and "sorted" in result.stderr


@pytest.mark.parametrize(
    ("samples", "weights", "message"),
    [
        ("none.npz", "weights.pth", "none.npz does not exist"),
        ("samples.npz", "none.pth", "Download https://"),
        ("weights.pth", "weights.pth", "arr_0, or mu"),
    ],
)
def test_what_is_wrong_is_one_sentence(samples, weights, message, files):
    result = run(files / samples, files / "reference.npz", "--weights", files / weights)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("output", "message"),
    [("samples.npz", "samples.npz is read, and would be overwritten"), (".", "cannot be written (it is a folder)")],
)
def test_a_wrong_output_is_refused_before_the_work_and_loses_nothing(output, message, files):
    before = (files / "samples.npz").read_bytes()
    result = run(
        files / "samples.npz", files / "reference.npz", "--weights", files / "weights.pth", "-o", files / output
    )
    assert result.exit_code != 0 and message in " ".join(result.stderr.split())
    assert (files / "samples.npz").read_bytes() == before


def report(path, **changes):
    convention = {"network": "Inception", "num_images": 10, "image_size": [8, 8]} | changes
    path.write_text(json.dumps({"numbers": {"fid": 3.0, "psnr": 20.0}, "convention": convention, "warnings": []}))
    return str(path)


def test_alike_reports_are_compared_and_unlike_numbers_named(tmp_path):
    first, second = report(tmp_path / "a.json"), report(tmp_path / "b.json", network="other")
    result = CliRunner().invoke(app, ["evaluate", "compare", first, second, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["differences"] == {"psnr": 0.0}
    assert "differ in network (Inception and other)" in found["not_compared"][0]
    unlike = report(tmp_path / "c.json", num_images=11)
    result = CliRunner().invoke(app, ["evaluate", "compare", first, unlike])
    assert result.exit_code == 1 and "differ in num images (10 and 11)" in " ".join(result.stderr.split())
