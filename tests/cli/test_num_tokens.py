"""The first tokens alone: `encode`, `decode`, `reconstruct` and `evaluate rate` of models trained with tail drop."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from commands import run, succeed
from image_sources import image_folder
from tiny_pipeline import tiny_image_processor, tiny_tokenizer
from titok_hf import TiTokPipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, tail_drop in (("short", True), ("plain", False)):
        TiTokPipeline(tiny_tokenizer(tail_drop=tail_drop), tiny_image_processor()).save_pretrained(folder / name)
    image_folder(folder / "images" / "test", 4)
    return folder


@pytest.fixture(scope="module")
def photos(files):
    return sorted((files / "images").rglob("*.png"))[:3]


def fail(message, *arguments):
    result = run(*arguments)
    assert result.exit_code == 1 and message in " ".join(result.stderr.split()), result.output


def test_the_first_tokens_are_encoded_and_decoded(files, photos, tmp_path):
    codes = tmp_path / "codes.safetensors"
    result = succeed("encode", *photos, "-o", codes, "-m", files / "short", "--num-tokens", 3)
    assert "6 bytes each" in result.stdout  # 3 codes of two bytes
    pipe = TiTokPipeline.from_pretrained(files / "short")
    with safe_open(codes, framework="pt") as file:
        assert torch.equal(file.get_tensor("codes").long(), pipe.encode(photos)[:, :3])
    succeed("decode", codes, "-o", tmp_path / "decoded", "-m", files / "short")
    succeed("reconstruct", *photos, "-o", tmp_path / "again", "-m", files / "short", "--num-tokens", 3)
    for photo in photos:
        decoded, again = tmp_path / "decoded" / f"{photo.stem}-decoded.png", tmp_path / "again"
        again = again / f"{photo.stem}-reconstructed.png"
        assert np.array_equal(np.asarray(Image.open(decoded)), np.asarray(Image.open(again)))
    assert not torch.equal(pipe.reconstruct(photos, "pt"), pipe.reconstruct(photos, "pt", num_tokens=3))


def test_numbers_of_tokens_that_cannot_be_decoded_are_one_line_and_leave_nothing(files, photos, tmp_path):
    out = tmp_path / "out"
    for command in ("encode", "reconstruct"):
        arguments = (command, *photos, "-o", out, "--num-tokens")
        fail("--num-tokens is 9. Use at most 8", *arguments, 9, "-m", files / "short")
        fail("--num-tokens is 3, but this model was trained to decode all 8", *arguments, 3, "-m", files / "plain")
        result = run(*arguments, 0, "-m", files / "short")
        assert result.exit_code == 2 and "--num-tokens" in result.stderr
    assert not out.exists()


def test_files_of_an_impossible_length_are_refused(files, photos, tmp_path):
    codes = tmp_path / "codes.safetensors"
    succeed("encode", *photos, "-o", codes, "-m", files / "short")
    with safe_open(codes, framework="pt") as file:
        tensor, metadata = file.get_tensor("codes"), file.metadata()
    for wrong in (tensor[:, :0], torch.cat([tensor, tensor], dim=1), tensor[:, 0]):
        save_file({"codes": wrong.contiguous()}, codes, metadata)
        fail("made by the model", "decode", codes, "-o", tmp_path / "out", "-m", files / "short")


def test_rate_plots_quality_over_the_number_of_tokens(files, tmp_path):
    models = files / "short", files / "plain"
    result = succeed("evaluate", "rate", *models, files / "images", "-o", tmp_path / "rate", "--json")
    printed = json.loads(result.stdout)
    tokenizers = [point for point in printed["points"] if point["num_tokens"]]
    assert [(point["codec"], point["num_tokens"], point["bits_per_image"]) for point in tokenizers] == [
        ("short, 1 token", 1, 4),
        *((f"short, {number} tokens", number, 4 * number) for number in (2, 4, 8)),
        ("plain", 8, 32),
    ]
    psnr = {point["codec"]: point["psnr"] for point in tokenizers}
    assert len(set(psnr.values())) == 4 and psnr["short, 8 tokens"] == psnr["plain"]  # the same weights
    for plot in ("plot", "plot_of_tokens"):
        assert Image.open(printed[plot]).size[0] > 500

    lengths = ("--num-tokens", 3, "--num-tokens", 1)
    succeed("evaluate", "rate", *models, files / "images", "-o", tmp_path / "rate", *lengths)
    points = json.loads((tmp_path / "rate" / "rate.json").read_text())["points"]
    assert [point["num_tokens"] for point in points if point["num_tokens"]] == [1, 3, 8]
    arguments = ("evaluate", "rate", files / "images", "-o", tmp_path / "refused", "--num-tokens")
    fail("--num-tokens is 9. Use at most 8", *arguments[:2], files / "short", *arguments[2:], 9)
    fail("trained to decode all 8", *arguments[:2], files / "plain", *arguments[2:], 3)
