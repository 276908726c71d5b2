"""titok_hf.cli.evaluate: numbers with what they depend on, and one sentence for what is wrong."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from titok_hf.cli.application import app
from titok_hf.evaluation.inception import InceptionNetwork, weights_digest


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
    assert {"fid", "sfid", "inception_score", "precision", "recall"} <= written.keys()
    convention = written["convention"]
    assert (convention["samples"], convention["reference"]) == ("samples.npz", "reference.npz")
    assert (convention["num_samples"], convention["num_reference_images"]) == (4, 5)
    assert weights_digest(weights) in convention["network"]
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
