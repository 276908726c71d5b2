"""How commands end that cannot go on: one sentence and an exit code, whatever happened, whenever it happened."""

import os
import signal
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from titok_hf.cli.boundary import TRACEBACK_VARIABLE
from titok_hf.cli.console import report_errors
from titok_hf.cli.options import Model, Variant

Size = Annotated[int, typer.Option("--size")]
COMMAND = [sys.executable, "-m", "titok_hf.cli"]


def titok_hf(*arguments, shell_suffix=None, **environment):
    command = [*COMMAND, *map(str, arguments)]
    if shell_suffix is not None:
        command = ["bash", "-o", "pipefail", "-c", f'"$@" {shell_suffix}', "bash", *command]
    environment = os.environ | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def raising(error):
    """A command that raises an error as it would come from below."""
    app = typer.Typer()

    @app.command()
    @report_errors
    def command(model: Model = None, variant: Variant = None, image_size: Size = 256) -> None:
        raise error

    return CliRunner().invoke(app, ["--model", "some/where", "--size", "8"])


UNFORESEEN = [KeyError("shape"), TypeError("wrong"), AssertionError(), AttributeError("x"), RecursionError("deep")]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_error_that_nobody_foresaw_is_one_line_that_names_what_was_read(error, monkeypatch):
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    result = raising(error)
    assert result.exit_code == 1 and not result.stdout
    assert len(result.stderr.strip().splitlines()) == 1
    assert type(error).__name__ in result.stderr and "some/where" in result.stderr
    assert f"{TRACEBACK_VARIABLE}=1" in result.stderr
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    assert "Traceback" in raising(error).stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("image_size is 8, not in a/image_size."), "error: --size is 8, not in a/image_size."),
        (ValueError("Name it with original_variant=, please."), "error: Name it with --variant, please."),
        (ValueError("image_size 8: (3, image_size, image_size)."), "error: --size 8: (3, image_size, image_size)."),
        (ValueError("Give (batch, image_size * image_size)."), "error: Give (batch, image_size * image_size)."),
        # The command has no --steps: the name is one of a recipe, say.
        (ValueError("num_inference_steps is 0."), "error: num_inference_steps is 0."),
        (ValueError("two\n  lines"), "error: two lines"),
        (PermissionError(13, "Permission denied", "a.txt"), "error: a.txt cannot be used (Permission denied)."),
        (MemoryError(), "error: there is not enough memory."),
        (RuntimeError("CUDA out of memory."), "error: there is not enough memory"),
        (ModuleNotFoundError("No module", name="msgpack"), 'pip install "titok-hf[convert]"'),
        (ModuleNotFoundError("No module", name="yaml"), 'pip install "titok-hf[train]"'),
    ],
)
def test_what_a_user_can_mend_is_said_in_the_words_of_the_command_line(error, message):
    result = raising(error)
    assert result.exit_code == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


# Each name is imported in another phase: the boundary's own first lines, the command line, the libraries, the model.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "stop"),
    [("typer", signal.SIGINT), ("numpy", signal.SIGINT), ("torch", signal.SIGTERM), ("transformers", signal.SIGINT)],
)
def test_a_signal_during_the_imports_ends_without_a_traceback(module, stop, tmp_path):
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], "generate", "0", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for line in process.stderr:
            name = line.rpartition("|")[2].strip()
            if name == module or name.startswith(f"{module}."):
                break
        process.send_signal(stop)
        rest = process.stderr.read()
        process.wait(timeout=60)
    finally:
        process.kill()
        process.stderr.close()
    assert process.returncode == 128 + stop, rest[-2000:]
    assert "Traceback" not in rest and "interrupted" in rest.splitlines()


def test_a_full_disk_behind_stdout_is_one_line():
    result = titok_hf("info", "--json", shell_suffix="> /dev/full")
    assert result.returncode == 1
    assert "cannot be written to standard output" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("suffix", [">&- 2>&- <&-", "2> /dev/full"])
def test_missing_streams_are_no_error(suffix):
    result = titok_hf("info", shell_suffix=suffix)
    assert result.returncode == 0 and "Traceback" not in result.stderr


def test_a_reader_that_has_left_is_no_error_to_speak_of():
    result = titok_hf("info", shell_suffix="| true")
    assert result.stderr == "" and result.returncode in (0, 1)


def test_names_that_no_encoding_can_show_are_shown_with_backslashes(tmp_path):
    result = titok_hf("info", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), LC_ALL="C.UTF-8")
    assert result.returncode == 1 and "\\udcff" in result.stderr and "Traceback" not in result.stderr


def test_options_whose_default_is_none_are_named_on_every_python(capsys):
    """`get_type_hints` of Python 3.10 puts their types into `Optional`, where what `Annotated` holds is not found."""

    def command(top_speed: Annotated[float, typer.Option("--speed")] = None):
        raise ValueError("top_speed is 0. Use at least 1.")

    with pytest.raises(typer.Exit):
        report_errors(command)(top_speed=0)
    assert "--speed is 0." in capsys.readouterr().err
