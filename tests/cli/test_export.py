"""`titok-hf export`, and the commands that run its result."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tiny_pipeline import tiny_pipeline
from titok_hf.cli import app

pytest.importorskip("transformers.exporters.runners", reason="exporting needs transformers 5.23")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(message, *arguments):
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "exported"
    shown = succeed("export", model, "-o", folder, "--precision", "fp32", "--precision", "int8").stdout
    assert "codes that differ" in shown and "ONNX Runtime, in" in shown and "int8" in shown
    return folder


def images_in(folder) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def test_an_export_generates_the_images_of_its_model(model, exported, tmp_path):
    for place, source in (("torch", model), ("onnx", exported)):
        succeed("generate", "all", "-n", 2, "--seed", 3, "-m", source, "-o", tmp_path / place)
    ours, expected = images_in(tmp_path / "onnx"), images_in(tmp_path / "torch")
    assert ours.keys() == expected.keys() and len(ours) == 7
    assert all(np.abs(ours[name].astype(int) - expected[name]).max() <= 1 for name in ours)
    succeed("generate", "cardigan", "-m", exported, "--engine", "onnx:int8", "-o", tmp_path / "int8")


def test_an_export_encodes_decodes_and_reconstructs(model, exported, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photo)
    succeed("encode", photo, "-o", tmp_path / "codes", "-m", exported)
    succeed("decode", tmp_path / "codes", "-o", tmp_path / "ours", "-m", exported, "--engine", "onnx")
    succeed("decode", tmp_path / "codes", "-o", tmp_path / "torch", "-m", model)
    succeed("reconstruct", photo, "-o", tmp_path / "ours", "-m", exported)
    ours, expected = images_in(tmp_path / "ours"), images_in(tmp_path / "torch")
    assert np.abs(ours["photo-decoded.png"].astype(int) - expected["photo-decoded.png"]).max() <= 1
    assert "photo-reconstructed.png" in ours


def test_the_answer_as_json_states_the_losses(model, tmp_path):
    answer = json.loads(succeed("export", model, "-o", tmp_path / "exported", "--json").stdout)
    assert answer["engine"] == "onnx" and answer["model"] == "tiny"
    assert answer["losses"]["fp32"]["codes_that_differ"] == 0


def test_what_cannot_be_exported_or_run_is_said(model, exported, tmp_path):
    refused("'tflite' is not an engine. Use one of onnx, openvino, executorch", "export", "--format", "tflite")
    refused("'fp8' is not a precision that ONNX Runtime is exported in", "export", model, "--precision", "fp8")
    refused("This model is an export already", "export", exported, "-o", tmp_path / "again")
    refused("is for exported models", "generate", "all", "-m", model, "--engine", "onnx", "-o", tmp_path)
    refused("has no export for openvino", "generate", "all", "-m", exported, "--engine", "openvino", "-o", tmp_path)
    assert not (tmp_path / "again").exists()
