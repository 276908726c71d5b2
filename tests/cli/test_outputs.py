"""Where commands write: nothing of the user's is lost, and what is no regular file is written through."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from commands import run, succeed
from image_sources import image_folder
from original_pipeline import write_generator, write_tokenizer
from tiny_pipeline import tiny_pipeline
from titok_hf.checkpoints.atomic_files import write_atomically


def refused(message, *arguments):
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_three_commands_in_one_folder_lose_nothing(model, photo, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "writable").write_text("mine")
    succeed("encode", photo, "-o", tmp_path / "codes.safetensors", "-m", model)
    succeed("reconstruct", photo, "-o", out, "-m", model)
    succeed("decode", tmp_path / "codes.safetensors", "-o", out, "-m", model)
    succeed("generate", "tabby", "-n", 1, "-o", out, "-m", model)
    succeed("generate", "cardigan", "-n", 1, "-o", out, "-m", model)
    assert [name for name in names(out) if name.startswith("contact-sheet")] == [
        "contact-sheet-decoded-photo.png",
        "contact-sheet-generated-cardigan.png",
        "contact-sheet-generated-tabby.png",
        "contact-sheet-reconstructed-photo.png",
    ]
    assert (out / "writable").read_text() == "mine"


def test_a_result_never_takes_the_place_of_what_is_read(model, photo, tmp_path):
    content = photo.read_bytes()
    refused("would be overwritten", "encode", photo, "-o", photo, "-m", model)
    (tmp_path / "link").symlink_to(photo)
    refused("would be overwritten", "encode", photo, "-o", tmp_path / "link", "-m", model)
    again = tmp_path / "photo-reconstructed.png"
    shutil.copy(photo, again)
    refused("would be overwritten", "reconstruct", photo, again, "-o", tmp_path, "-m", model)
    weights = model / "tokenizer" / "model.safetensors"
    before = weights.read_bytes()
    refused("would be overwritten", "encode", photo, "-o", weights, "-m", model)
    refused("is a folder", "encode", photo, "-o", tmp_path, "-m", model)
    assert photo.read_bytes() == again.read_bytes() == content and weights.read_bytes() == before


def test_a_conversion_never_takes_the_place_of_its_source(tmp_path):
    original, generator = write_tokenizer(tmp_path / "tokenizer"), write_generator(tmp_path / "all" / "transformer")
    tiny_pipeline().save_pretrained(tmp_path / "ours")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(original)
    refused("would be overwritten", "convert", "tokenizer", original, "-o", original)
    refused("would be overwritten", "convert", "tokenizer", tmp_path / "link", "-o", original)
    refused("would be overwritten", "convert", "tokenizer", original, "-o", tmp_path / "link")
    refused("lies in", "convert", "tokenizer", original / "model.safetensors", "-o", original, "--variant", "l32")
    refused("lies in", "convert", "generator", generator, "-o", tmp_path / "all", "--tokenizer", original)
    refused("would be overwritten", "convert", "export", tmp_path / "ours", "-o", tmp_path / "ours")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_data_set_is_never_written_into_its_source(model, tmp_path):
    source = image_folder(tmp_path / "images", 3)
    before = sorted(source.rglob("*"))
    refused("would be overwritten", "prepare", source, "-o", source)
    refused("would be overwritten", "pretokenize", source, "-o", f"{source}/.", "-m", model)
    refused("lies in", "prepare", source / "bag", "-o", source)
    refused("reads the characters", "prepare", source, "-o", tmp_path / "out[1]")
    assert sorted(source.rglob("*")) == before and not (tmp_path / "out[1]").exists()


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"first", b"second"):  # at first the link leads nowhere
        assert write_atomically(link, content) == link
        assert link.is_symlink() and target.read_bytes() == content
    assert names(tmp_path / "there") == ["file"]


def test_a_pipe_is_written_through_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    for content in (b"bytes", lambda path: path.write_bytes(b"from a function")):
        reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
        reader.start()
        write_atomically(pipe, content)
        reader.join(timeout=10)
    assert read == [b"bytes", b"from a function"]
    assert pipe.is_fifo() and names(tmp_path) == ["pipe"]


def test_devices_stay_and_full_ones_are_errors():
    write_atomically("/dev/null", b"lost")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="No space left"):
        write_atomically("/dev/full", b"lost")
    assert Path("/dev/full").is_char_device()


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["| cat > {}", "> {}"])
def test_codes_can_go_to_stdout(shell, model, photo, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here.safetensors"
    command = [sys.executable, "-m", "titok_hf.cli", "encode", photo, "-m", model, "-o", "/dev/stdout"]
    subprocess.run(["bash", "-c", f'"$@" {shell.format(there)}', "bash", *command], check=True, timeout=120)
    succeed("encode", photo, "-o", here, "-m", model)
    for path in (there, here):  # whose metadata have no order
        with safe_open(path, framework="pt") as file:
            assert file.keys() == ["codes"] and file.metadata()["names"] == f'["{photo}"]'
    assert load_file(there)["codes"].tolist() == load_file(here)["codes"].tolist()
