"""
`kill -9` at a random moment of every command that writes: nothing is lost, doubled or half-written, and the same
command once more ends in the files of a run that was left alone.

`FUZZ_KILLS` is the number of kills of each command: `make fuzz` makes many.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from hub_server import LocalHub, local_hub
from original_pipeline import write_generator
from tiny_pipeline import tiny_pipeline, tiny_tokenizer

KILLS = int(os.environ.get("FUZZ_KILLS", 2))
SEED = int(os.environ.get("FUZZ_SEED", 0))
Files = dict[str, bytes]


class Commands:
    """Runs of `titok-hf`, which can be killed."""

    def __init__(self, environment: dict[str, str], log: Path):
        server = Path(__file__).with_name("fork_server.py")
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, str(server)],
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        assert self._answer() == "ready"

    def run(self, *arguments: object, kill_after: float | None = None) -> int:
        """
        Runs a command to its end, or until it is killed so many seconds after its start.

        Returns:
            the exit code; -9 of a run that was killed.
        """
        print(json.dumps([str(argument) for argument in arguments]), file=self.process.stdin, flush=True)
        pid = int(self._answer())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
        return int(self._answer())

    def must_run(self, *arguments: object) -> float:
        """Seconds that a command takes which has to succeed."""
        start = time.monotonic()
        assert self.run(*arguments) == 0, self.log.read_text()[-2000:]
        return time.monotonic() - start

    def kills(self, rng: Random, seconds: float, *arguments: object) -> Iterator[int]:
        """Kills a command at random moments of the time that it takes, and yields after each."""
        for index in range(KILLS):
            self.run(*arguments, kill_after=rng.uniform(0, seconds))
            yield index

    def _answer(self) -> str:
        line = self.process.stdout.readline().strip()
        assert line, self.log.read_text()[-2000:]
        return line


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def commands(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    commands = Commands(hub.environment(folder / "cache"), folder / "log")
    yield commands
    commands.process.stdin.close()
    commands.process.wait(timeout=60)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of three classes, one of them broken."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(60):
        path = folder / f"class_{index % 3}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    (folder / "class_0" / "0.png").write_bytes(b"no image")
    return folder


def files_in(folder: Path) -> Files:
    """Content by name, without what the package hides, or {} where there is no folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not f"/{name}".count("/.")}


def without_name(files: Files, name: str) -> Files:
    """The same with the folder's own name taken out of the card, which it is written into with its hash."""
    return {
        path: b"".join(line for line in content.splitlines(True) if name.encode() not in line)
        if path == "README.md"
        else content
        for path, content in files.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "pretokenize"])
def test_a_killed_data_set_ends_in_the_same_bytes(command, commands, images, tmp_path):
    options = ["--size", 32] if command == "prepare" else ["-m", tmp_path / "tokenizer"]
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    arguments = [command, images, *options, "--shard-size", 7, "--workers", 0, "-o"]
    seconds = commands.must_run(*arguments, tmp_path / "whole")
    expected = files_in(tmp_path / "whole")
    killed = tmp_path / "killed"
    for _ in commands.kills(Random(SEED), seconds, *arguments, killed):
        assert all(expected[name] == content for name, content in files_in(killed).items())
    commands.must_run(*arguments, killed)
    assert files_in(killed) == expected
    assert not list(killed.rglob(".unfinished*"))


@pytest.mark.slow
def test_a_killed_conversion_leaves_a_whole_checkpoint_or_none(commands, tmp_path):
    write_generator(tmp_path / "original")
    arguments = ["convert", "generator", tmp_path / "original", "-o"]
    seconds = commands.must_run(*arguments, tmp_path / "whole" / "model")
    expected = files_in(tmp_path / "whole" / "model")
    (tmp_path / "killed").mkdir()
    for _ in commands.kills(Random(SEED), seconds, *arguments, tmp_path / "killed" / "model"):
        assert files_in(tmp_path / "killed" / "model") in ({}, expected)
    commands.must_run(*arguments, tmp_path / "killed" / "model")
    assert files_in(tmp_path / "killed" / "model") == expected
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["model"]  # nothing else is left of the runs


@pytest.mark.slow
def test_a_killed_push_changes_everything_or_nothing(commands, hub, tmp_path):
    tiny_pipeline(0).save_pretrained(tmp_path / "model")
    seconds = commands.must_run("push", tmp_path / "model", "user/whole")
    tiny_pipeline(1).save_pretrained(tmp_path / "model")
    commands.must_run("push", tmp_path / "model", "user/whole")
    expected = remote_files(hub, "user/whole")

    tiny_pipeline(0).save_pretrained(tmp_path / "model")
    commands.must_run("push", tmp_path / "model", "user/killed")
    before = remote_files(hub, "user/killed")
    tiny_pipeline(1).save_pretrained(tmp_path / "model")
    here = files_in(tmp_path / "model")
    for _ in commands.kills(Random(SEED), seconds, "push", tmp_path / "model", "user/killed"):
        now = remote_files(hub, "user/killed")
        assert now == before or weights_of(now) == weights_of(expected)
        assert weights_of(files_in(tmp_path / "model")) == weights_of(here)
    commands.must_run("push", tmp_path / "model", "user/killed")
    assert without_name(remote_files(hub, "user/killed"), "killed") == without_name(expected, "whole")


@pytest.mark.slow
def test_a_killed_pull_leaves_the_old_or_the_new_files_and_a_persons_own(commands, hub, tmp_path):
    tiny_pipeline(0).save_pretrained(tmp_path / "old")
    seconds = commands.must_run("push", tmp_path / "old", "user/pulled")
    commands.must_run("pull", "user/pulled", tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").write_text("mine")
    old = files_in(tmp_path / "copy")
    tiny_pipeline(1).save_pretrained(tmp_path / "new")
    commands.must_run("push", tmp_path / "new", "user/pulled")
    commands.must_run("pull", "user/pulled", tmp_path / "whole")
    new = files_in(tmp_path / "whole") | {"notes.txt": b"mine"}
    for _ in commands.kills(Random(SEED), seconds, "pull", "user/pulled", tmp_path / "copy"):
        now = files_in(tmp_path / "copy")
        assert now["notes.txt"] == b"mine"
        assert all(content in (old.get(name), new.get(name)) for name, content in now.items())
    commands.must_run("pull", "user/pulled", tmp_path / "copy")
    assert files_in(tmp_path / "copy") == new
    assert not list((tmp_path / "copy").glob(".*"))


def remote_files(hub: LocalHub, repo_id: str) -> Files:
    return {path: file.content for path, file in hub.repositories["models", repo_id].at("main").files.items()}


def weights_of(files: Files) -> Files:
    return {name: content for name, content in files.items() if name.endswith(".safetensors")}
