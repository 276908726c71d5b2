"""Files and folders are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from titok_hf.checkpoints.atomic_files import folder_atomically, write_atomically


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.bin", b"content")
    assert path.read_bytes() == b"content" and entries(path.parent) == ["b.bin"]


def test_a_writer_gets_a_path_with_the_suffix_of_the_file(tmp_path):
    path = write_atomically(tmp_path / "picture.png", Image.new("RGB", (2, 2), "red").save)
    assert Image.open(path).format == "PNG"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(unfinished):
        unfinished.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old" and entries(tmp_path) == ["a.txt"]


def test_a_new_folder_appears_when_the_block_is_done(tmp_path):
    target = tmp_path / "new" / "checkpoint"
    with folder_atomically(target) as folder:
        (folder / "weights").write_text("1")
        assert not target.exists()
    assert entries(target) == ["weights"] and entries(target.parent) == ["checkpoint"]


@pytest.fixture
def target(tmp_path):
    """A folder with files of a person and of an earlier write."""
    files = {"README.md": "mine", "index": "old", "part/same": "old", "part/others": "mine", "part/stale": "old"}
    target = tmp_path / "checkpoint"
    (target / "part").mkdir(parents=True)
    for name, content in files.items():
        (target / name).write_text(content)
    return target


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder):
    for name in ("part/same", "part/fresh", "new/part", "index"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("new")


def stale(there, new):
    assert {"part/same", "part/fresh", "new/part", "index"} == set(new)
    return [name for name in there if name.endswith("stale")]


def test_files_replace_those_of_their_name_and_what_they_outdate_and_leave_the_others(target):
    with folder_atomically(target, ["index"], stale) as folder:
        fill(folder)
    assert contents(target) == {
        "README.md": "mine",
        "part/others": "mine",
        "part/same": "new",
        "part/fresh": "new",
        "new/part": "new",
        "index": "new",
    }


@pytest.mark.parametrize("failing", range(9))
def test_a_rename_that_fails_half_way_leaves_the_folder_as_it_was(failing, target, monkeypatch):
    before, replace, calls = contents(target), os.replace, []

    def failing_replace(old, new):
        calls.append(old)
        if len(calls) == failing + 1:
            raise OSError("the disk says no")
        replace(old, new)

    monkeypatch.setattr(os, "replace", failing_replace)
    try:
        with folder_atomically(target, ["index"], stale) as folder:
            fill(folder)
    except OSError:
        assert contents(target) == before and entries(target) == ["README.md", "index", "part"]
    else:
        assert len(calls) == 7 <= failing  # three old files aside, four new ones into their place


def test_a_folder_whose_writer_was_killed_between_two_renames_does_not_look_complete(target, monkeypatch):
    replace, calls = os.replace, []

    def killing_replace(old, new):
        calls.append((target / "index").exists())
        replace(old, new)

    monkeypatch.setattr(os, "replace", killing_replace)
    with folder_atomically(target, ["index"], stale) as folder:
        fill(folder)
    assert calls == [True] + [False] * 6


KILLED = """
import os, signal, sys
from titok_hf.checkpoints.atomic_files import folder_atomically
with folder_atomically(sys.argv[1]) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
@pytest.mark.parametrize("exists", [True, False])
def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_living_one_is_left_alone(exists, tmp_path):
    target = tmp_path / "checkpoint"
    if exists:
        target.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(target)])
    (leftover,) = tmp_path.rglob(".unfinished-*")
    foreign = leftover.with_name(".unfinished-notes")
    foreign.mkdir()
    with folder_atomically(target) as living, folder_atomically(target) as folder:
        (folder / "whole").write_text("whole")
        assert living.exists() and not leftover.exists()
    assert foreign.exists() and not living.exists() and (target / "whole").exists()


@pytest.mark.parametrize("in_the_way", ["index/mine", "new"])
def test_neither_files_nor_folders_of_the_other_kind_are_replaced(in_the_way, target):
    if in_the_way == "index/mine":
        (target / "index").unlink()
        (target / "index").mkdir()
    (target / in_the_way).write_text("mine")
    before = contents(target)
    with pytest.raises(OSError, match=f"{in_the_way.split('/')[0]} is a f.*Move it away"):
        with folder_atomically(target, ["index"], stale) as folder:
            fill(folder)
    assert contents(target) == before


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_of_the_umask_whoever_writes_them(umask, expected, tmp_path):
    def write(path):
        save_file({"a": torch.zeros(1)}, path)

    old = os.umask(umask)
    try:
        with folder_atomically(tmp_path / "folder") as folder:
            (folder / "part").mkdir()
            write(folder / "part" / "weights.safetensors")
        write_atomically(tmp_path / "file.safetensors", write)
    finally:
        os.umask(old)
    for path in (tmp_path / "folder" / "part" / "weights.safetensors", tmp_path / "file.safetensors"):
        assert path.stat().st_mode & 0o777 == expected


@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_block_leaves_what_was_there(tmp_path, exists):
    target = tmp_path / "checkpoint"
    if exists:
        target.mkdir()
        (target / "weights").write_text("old")
    with pytest.raises(RuntimeError), folder_atomically(target) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert target.exists() == exists and entries(tmp_path) == (["checkpoint"] if exists else [])
    if exists:
        assert (target / "weights").read_text() == "old" and entries(target) == ["weights"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"), folder_atomically(tmp_path / "file"):
        pass


@pytest.fixture
def calls(monkeypatch):
    """The order of flushes and renames, which are still done: ("fsync", name) and ("replace", old name, new name)."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        seen.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def recorded_replace(old, new):
        seen.append(("replace", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells the names of open files on Linux alone")
def test_a_file_is_on_the_disk_before_it_takes_its_name(calls, tmp_path):
    write_atomically(tmp_path / "a.txt", b"content")
    unfinished = calls[0][1]
    assert unfinished.startswith(".unfinished-") and unfinished.endswith("-a.txt")
    assert calls == [("fsync", unfinished), ("replace", unfinished, "a.txt"), ("fsync", tmp_path.name)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells the names of open files on Linux alone")
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_is_on_the_disk_before_it_takes_its_name(exists, calls, tmp_path):
    target = tmp_path / "checkpoint"
    if exists:
        target.mkdir()
    with folder_atomically(target) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text("1")
    first_rename = [call[0] for call in calls].index("replace")
    assert {("fsync", "weights"), ("fsync", "part"), ("fsync", folder.name)} <= set(calls[:first_rename])
    assert calls[-1] == ("fsync", "checkpoint" if exists else tmp_path.name)
