"""Every command in an environment with the base alone, and with each extra: it works, or says what to install."""

import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from installed_subset import REPOSITORY, required
from titok_hf.exported.engines import ENGINES

pytestmark = pytest.mark.slow


def extras_of_the_package() -> list[str]:
    """Those that commands of this file need; the engines of exported models and the page have tests of their own."""
    apart = ("demo", "docs", "test", "dev", "fid", "lpips", "quantization", "serve", *ENGINES)
    parser = ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return [name for name in parser["options.extras_require"] if name not in apart]


def test_what_an_extra_brings_is_read_from_the_metadata():
    assert "msgpack" not in required([]) and "msgpack" in required(["convert"])
    assert {"torch", "safetensors", "hf-xet"} <= required([]) and "datasets" not in required([])
    assert {"torchmetrics", "datasets", "pyarrow"} <= required(["train"])


@pytest.mark.parametrize("extra", ["", *extras_of_the_package()])
def test_every_command_works_or_says_what_to_install(extra, tmp_path):
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "installed_subset.py"),
        str(tmp_path),
        *filter(None, [extra]),
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    num_runs, *faults = json.loads(Path(tmp_path, "faults.json").read_text())
    assert faults == [] and num_runs > 30
