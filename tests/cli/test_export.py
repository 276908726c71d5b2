"""`titok-hf export`, and the commands that run its result."""

import json

import numpy as np
import pytest
from PIL import Image

from commands import run, succeed
from plain_engine import PLAIN
from tiny_pipeline import tiny_pipeline
from titok_hf.exported.engines import ENGINES

pytest.importorskip("transformers.exporters.runners", reason="exporting needs transformers 5.23")


def refused(message, *arguments):
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output


@pytest.fixture(scope="module", autouse=True)
def plain_engine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "plain", PLAIN)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "exported"
    shown = succeed("export", model, "-o", folder, "--format", "plain").stdout
    assert "codes that differ" in shown and "torch.export, in" in shown and "fp32" in shown
    answer = succeed("export", model, "-o", folder, "--format", "plain", "--precision", "bf16", "--json").stdout
    answer = json.loads(answer)  # nothing else is written to stdout
    assert answer["engine"] == "plain" and answer["model"] == "tiny"
    assert 0 < answer["losses"]["bf16"]["logits_difference"] < 0.1
    return folder


def images_in(folder) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def test_an_export_generates_the_images_of_its_model(model, exported, tmp_path):
    for place, source in (("torch", model), ("exported", exported)):
        succeed("generate", "all", "-n", 2, "--seed", 3, "-m", source, "-o", tmp_path / place)
    ours, expected = images_in(tmp_path / "exported"), images_in(tmp_path / "torch")
    assert ours.keys() == expected.keys() and len(ours) == 7
    assert all(np.abs(ours[name].astype(int) - expected[name]).max() <= 1 for name in ours)
    succeed("generate", "cardigan", "-m", exported, "--engine", "plain:bf16", "-o", tmp_path / "bf16")


def test_an_export_encodes_decodes_and_reconstructs(model, exported, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photo)
    succeed("encode", photo, "-o", tmp_path / "codes", "-m", exported)
    succeed("decode", tmp_path / "codes", "-o", tmp_path / "ours", "-m", exported, "--engine", "plain")
    succeed("decode", tmp_path / "codes", "-o", tmp_path / "torch", "-m", model)
    succeed("reconstruct", photo, "-o", tmp_path / "ours", "-m", exported)
    ours, expected = images_in(tmp_path / "ours"), images_in(tmp_path / "torch")
    assert np.abs(ours["photo-decoded.png"].astype(int) - expected["photo-decoded.png"]).max() <= 1
    assert "photo-reconstructed.png" in ours


def test_what_cannot_be_exported_or_run_is_said(model, exported, tmp_path):
    refused("'tflite' is not an engine. Use one of onnx, openvino, executorch", "export", "--format", "tflite")
    refused("'fp8' is not a precision that ONNX Runtime is exported in", "export", model, "--precision", "fp8")
    refused("This model is an export already", "export", exported, "-o", tmp_path / "again", "--format", "plain")
    refused("is for exported models", "generate", "all", "-m", model, "--engine", "onnx", "-o", tmp_path)
    refused("has no export for openvino", "generate", "all", "-m", exported, "--engine", "openvino", "-o", tmp_path)
    refused("Choose a precision of the export", "generate", "all", "-m", exported, "--dtype", "bfloat16")
    assert not (tmp_path / "again").exists()
