"""Files and folders are whole or absent."""

import os
from pathlib import Path

import pytest
from PIL import Image

from titok_hf.atomic_files import folder_atomically, write_atomically


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


def test_entries_replace_those_of_their_name_and_leave_the_others(tmp_path):
    target = tmp_path / "checkpoint"
    (target / "part").mkdir(parents=True)
    (target / "part" / "stale").write_text("old")
    (target / "README.md").write_text("mine")
    with folder_atomically(target, last="index") as folder:
        (folder / "part").mkdir()
        (folder / "part" / "fresh").write_text("new")
        (folder / "index").write_text("{}")
    assert entries(target) == ["README.md", "index", "part"] and entries(target / "part") == ["fresh"]


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
    unfinished = f".unfinished-{os.getpid()}-a.txt"
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
