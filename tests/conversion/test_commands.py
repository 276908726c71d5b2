"""`titok-hf convert` and the scripts in `conversion/`: the same commands over the same functions."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from original_pipeline import write_generator
from titok_hf import MaskGitTransformer1DModel
from titok_hf.cli.convert import app
from titok_hf.original import conversion

SCRIPTS = Path(__file__).parents[2] / "conversion"
FUNCTIONS = {
    "convert_titok": "convert_tokenizer",
    "convert_generator": "convert_generator",
    "convert_vqgan": "convert_vqgan",
    "export_to_original": "export_to_original",
}


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_script_is_listed():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(FUNCTIONS)


@pytest.mark.parametrize("script", FUNCTIONS)
def test_scripts_offer_their_function(script):
    specification = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert getattr(module, FUNCTIONS[script]) is getattr(conversion, FUNCTIONS[script])


def test_there_and_back(tmp_path):
    original = write_generator(tmp_path / "original")
    result = invoke("generator", original, "-o", tmp_path / "ours")
    assert result.exit_code == 0, result.output
    assert "each tensor comes back bit for bit" in result.output
    MaskGitTransformer1DModel.from_pretrained(tmp_path / "ours")
    result = invoke("export", tmp_path / "ours", "-o", tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "back" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenizer", "-o", "out"], "Give a file, a folder or a Hub id, or --all"),
        (["tokenizer", "{}", "-o", "{}/out"], "is no original checkpoint"),
        (["vqgan", "{}/missing.bin", "-o", "{}/out"], "holds no 'missing.bin'"),
        (["generator", "{}", "-o", "{}/out", "--variant", "xl"], "--variant is 'xl'"),
        (["export", "{}", "-o", "{}/out"], "has no config.json"),
    ],
)
def test_errors_are_one_line_and_write_nothing(tmp_path, arguments, message):
    result = invoke(*(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code == 1
    assert message in result.stderr and "Traceback" not in result.output + result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert not any(tmp_path.iterdir())
