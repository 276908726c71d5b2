"""titok-hf evaluate reconstruction: numbers computed in another way, any number of processes, bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetForImageClassification
from typer.testing import CliRunner

from image_sources import CLASSES, image_folder
from launched import run_processes
from small_classifier import save_small_classifier
from tiny_pipeline import tiny_pipeline
from titok_hf.cli.application import app
from titok_hf.evaluation.evaluate_reconstruction import reconstruct
from titok_hf.evaluation.images import EvaluationImages

NUM_IMAGES = 21


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A model, a classifier of the data set's classes, and the data set."""
    folder = tmp_path_factory.mktemp("reconstruction")
    tiny_pipeline().save_pretrained(folder / "model")
    save_small_classifier(folder / "judge", dict(enumerate(CLASSES)))
    image_folder(folder / "data" / "test", NUM_IMAGES)
    return folder


def command(things, *options):
    arguments = ["evaluate", "reconstruction", things / "model", things / "data", "--device", "cpu", *options]
    return [str(argument) for argument in arguments]


def run(things, *options):
    return CliRunner().invoke(app, command(things, *options))


def numbers_of(things, *options):
    result = run(things, "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def report(things):
    return numbers_of(things, "--network", things / "judge", "--batch-size", "4")


def test_numbers_equal_those_of_all_images_at_once(things, report):
    pipeline = tiny_pipeline()
    images, labels = EvaluationImages(str(things / "data"), "test", 32).read(range(NUM_IMAGES))
    reconstructed, codes = reconstruct(pipeline, images)
    error = (images.double() - reconstructed.double()) / 255
    psnr = -10 * error.square().flatten(1).mean(dim=1).log10()
    numbers = report["numbers"]
    assert numbers["psnr"] == pytest.approx(psnr.mean().item(), abs=1e-4)
    assert numbers["l1"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert numbers["mse"] == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert numbers["codes_used"] == len(codes.unique())
    assert numbers["codebook_entropy"] == pytest.approx(np.log2(numbers["codebook_perplexity"]))
    for label, name in enumerate(CLASSES):
        assert report["by_class"][name]["psnr"] == pytest.approx(psnr[labels == label].mean().item(), abs=1e-4)
    judge = ResNetForImageClassification.from_pretrained(things / "judge").eval()
    with torch.no_grad():
        hits = judge(images.float() / 255).logits.argmax(dim=1) == labels
    assert numbers["accuracy_on_originals"] == pytest.approx(hits.double().mean().item())


def test_a_distance_of_another_network_is_no_fid(report):
    assert "frechet_distance" in report["numbers"] and "rfid" not in report["numbers"]
    convention = report["convention"]
    assert "ResNetForImageClassification, weights" in convention["network"]
    assert convention["crop"] == "center" and convention["rounding"] == "round" and convention["split"] == "test"
    assert convention["num_images"] == NUM_IMAGES and convention["reference"].startswith("data")


def test_without_a_network_the_other_numbers_are_printed_and_one_sentence_names_the_file(things):
    result = run(things, "--json", "--limit", "6")
    assert result.exit_code == 0
    numbers = json.loads(result.stdout)["numbers"]
    assert {"psnr", "ssim", "codebook_usage", "images_per_second"} <= numbers.keys()
    assert not {"rfid", "frechet_distance"} & numbers.keys()
    assert "No FID" in result.stderr and "weights-inception-2015-12-05-6726825d.pth" in result.stderr


def test_a_wrong_model_is_named_before_the_missing_network(things, tmp_path):
    arguments = ["evaluate", "reconstruction", str(tmp_path / "no-model"), str(things / "data"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0 and "no-model" in result.stderr and "No FID" not in result.stderr


def test_pictures_show_the_worst_and_the_median(things, tmp_path):
    numbers_of(things, "--limit", "20", "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("median.png", "report.json", "settings.json", "worst.png")
    ]
    for name in ("median", "worst"):
        Image.open(tmp_path / "out" / f"{name}.png").load()


def test_padded_images_are_measured_inside_the_padding_too(things, tmp_path):
    Image.new("RGB", (20, 24), "red").save(tmp_path / "a.png")
    Image.new("RGB", (20, 24), "blue").save(tmp_path / "b.png")
    result = CliRunner().invoke(
        app,
        [
            "evaluate",
            "reconstruction",
            str(things / "model"),
            str(tmp_path),
            "--crop",
            "pad",
            "--split",
            "train",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)["numbers"]
    assert {"psnr_inside_padding", "ssim_inside_padding"} <= numbers.keys()


@pytest.mark.slow
def test_two_processes_give_equal_numbers(things, report, tmp_path):
    options = ("--network", things / "judge", "--batch-size", "4", "-o", tmp_path / "out", "--json")
    first, other = run_processes(command(things, *options), 2)
    found = json.loads(first)
    assert other == "" and found["processes"] == 2
    for numbers in (found["numbers"], report["numbers"]):
        numbers.pop("images_per_second", None)
    assert found["numbers"] == report["numbers"]


def test_a_killed_run_goes_on_and_gives_the_same_numbers(things, report, tmp_path, monkeypatch):
    options = ("--network", things / "judge", "--batch-size", "4", "-o", tmp_path / "out", "--json")
    from titok_hf.evaluation import evaluate_reconstruction as module

    calls, measured = [], module._measured

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(module, "_measured", killed)
    result = run(things, *options)
    assert result.exit_code == 130 and result.stdout == ""
    assert not (tmp_path / "out" / "report.json").exists()
    found = numbers_of(things, *options[:-1])
    assert len(calls) == 3 + 4  # of 6 chunks, two were kept
    for numbers in (found["numbers"], report["numbers"]):
        numbers.pop("images_per_second", None)
    assert found["numbers"] == report["numbers"]


def test_a_folder_of_other_settings_is_refused(things, tmp_path):
    numbers_of(things, "-o", tmp_path / "out", "--limit", "4")
    result = run(things, "-o", tmp_path / "out", "--limit", "5")
    assert result.exit_code == 1
    assert "other settings (num_images: 4 there, 5 here)" in " ".join(result.stderr.split())


def test_crops_that_were_compressed_are_refused(things, tmp_path):
    for number in range(3):
        Image.new("RGB", (32, 32), (number * 50, 0, 0)).save(tmp_path / f"{number}.jpg")
    arguments = ["evaluate", "reconstruction", str(things / "model"), str(tmp_path), "--split", "train"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "JPEG or lossy WebP files of 32 x 32" in " ".join(result.stderr.split())
    assert CliRunner().invoke(app, [*arguments, "--lossy"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "/nowhere/inception.pth"], "no file '/nowhere/inception.pth' of Inception weights. Download"),
        (["--split", "validation"], "validation"),
        (["--reference", "REFERENCE"], "rFID compares reconstructions with the images that were reconstructed"),
        (["--reference", "REFERENCE", "--training-statistics"], "holds no statistics"),
        (["--reference", "STATISTICS", "--training-statistics"], "is for a distance, which needs a network"),
        (
            ["--reference", "STATISTICS", "--training-statistics", "--network", "JUDGE"],
            "statistics of Inception alone, and the network is another one",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(options, message, things, tmp_path):
    np.savez(tmp_path / "reference.npz", np.zeros((3, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "statistics.npz", mu=0, sigma=0, mu_s=0, sigma_s=0)
    paths = {"REFERENCE": tmp_path / "reference.npz", "STATISTICS": tmp_path / "statistics.npz"}
    paths["JUDGE"] = things / "judge"
    result = run(things, *[paths.get(option, option) for option in options])
    assert result.exit_code != 0 and result.stdout == ""
    assert message in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


def test_one_image_is_refused(things, tmp_path):
    image_folder(tmp_path / "data", 1)
    result = CliRunner().invoke(
        app, ["evaluate", "reconstruction", str(things / "model"), str(tmp_path / "data"), "--split", "train"]
    )
    assert result.exit_code == 1 and "needs at least two images" in " ".join(result.stderr.split())


@pytest.mark.parametrize("part, what", [("encoder", "tokens of the encoder"), ("decoder", "pixels of the decoder")])
def test_a_model_that_gives_no_numbers_is_not_measured(part, what):
    pipeline = tiny_pipeline()
    with torch.no_grad():
        getattr(pipeline.tokenizer, part).class_token.fill_(float("nan"))
    with pytest.raises(ValueError, match=f"{what} are not all finite"):
        reconstruct(pipeline, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
