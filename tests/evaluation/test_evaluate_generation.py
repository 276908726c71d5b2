"""titok-hf evaluate generation: the same images in any batch and number of processes, their metrics, bad input."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import load_dataset
from typer.testing import CliRunner

from image_sources import image_folder
from launched import run_processes
from small_classifier import save_small_classifier
from tiny_pipeline import ID2LABEL, tiny_pipeline
from titok_hf.cli.application import app
from titok_hf.evaluation import evaluate_generation as module
from titok_hf.evaluation.adm import precision_and_recall
from titok_hf.evaluation.evaluate_generation import GenerationPlan, generate
from titok_hf.evaluation.features import FeatureNetwork
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.images import EvaluationImages
from titok_hf.evaluation.inception import InceptionNetwork

NUM_IMAGES = 24


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A model, a classifier of its classes, and a data set as the reference."""
    folder = tmp_path_factory.mktemp("generation")
    tiny_pipeline().save_pretrained(folder / "model")
    save_small_classifier(folder / "judge", ID2LABEL)
    image_folder(folder / "data" / "test", 15)
    return folder


def command(things, *options):
    arguments = [*("evaluate", "generation", things / "model", "-n", NUM_IMAGES, "--device", "cpu"), *options]
    return [str(argument) for argument in arguments]


def measured(things):
    return ("--network", things / "judge", "--reference", things / "data", "--batch-size", "5")


def numbers_of(things, *options):
    result = CliRunner().invoke(app, command(things, "--json", *options))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def report(things, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    found = numbers_of(things, *measured(things), "-o", folder, "--keep", "npz")
    with np.load(folder / "images.npz") as arrays:
        return found, arrays["arr_0"], arrays["arr_1"]


def test_classes_are_shuffled_and_have_as_many_images_each():
    plan = GenerationPlan(NUM_IMAGES, 3, seed=1)
    assert torch.bincount(plan.labels).tolist() == [8, 8, 8]
    assert plan.labels.tolist() != sorted(plan.labels.tolist())
    pairs = set(zip(plan.labels.tolist(), plan.indices.tolist(), strict=True))
    assert pairs == {(label, index) for label in range(3) for index in range(8)}
    assert not torch.equal(plan.labels, GenerationPlan(NUM_IMAGES, 3, seed=2).labels)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_images_do_not_depend_on_the_batch(batch_size, report):
    _, images, labels = report
    plan = GenerationPlan(NUM_IMAGES, 3)
    assert labels.tolist() == plan.labels.tolist()
    pipeline = tiny_pipeline()
    batches = zip(plan.labels.split(batch_size), plan.indices.split(batch_size), strict=True)
    found = torch.cat([generate(pipeline, own.tolist(), indices.tolist(), plan) for own, indices in batches])
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), images)
    assert len(np.unique(images.reshape(NUM_IMAGES, -1), axis=0)) > NUM_IMAGES / 2  # this model is sure of some codes
    pairs = zip(plan.labels.tolist(), plan.indices.tolist(), strict=True)
    assert len({module.image_generator(seed, *pair).initial_seed() for pair in pairs for seed in (0, 1)}) == 48


def test_the_command_generate_makes_the_same_images(things, tmp_path):
    from PIL import Image

    arguments = ["generate", "1", "-n", "2", "-o", str(tmp_path), "--model", str(things / "model"), "--device", "cpu"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    files = sorted(tmp_path.glob("001-*.png"))
    images = generate(tiny_pipeline(), [1, 1], [0, 1], GenerationPlan(NUM_IMAGES, 3, rounding="round"))
    assert np.array_equal(np.stack([Image.open(file) for file in files]), images.permute(0, 2, 3, 1).numpy())


def test_numbers_are_those_of_all_images_at_once(things, report):
    found, images, labels = report
    numbers = found["numbers"]
    made = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    real, _ = EvaluationImages(str(things / "data"), "test", 32).read(range(15))
    distance = FrechetDistance(str(things / "judge"))
    distance.update(real.float() / 255, real=True)
    distance.update(made.float() / 255, real=False)
    assert numbers["frechet_distance"] == pytest.approx(distance.compute(), rel=1e-4)
    network = FeatureNetwork(str(things / "judge"))
    expected = precision_and_recall(network(real).pooled, network(made).pooled)
    assert (numbers["precision"], numbers["recall"]) == expected
    hits = network.classify(made).numpy() == labels
    assert numbers["accuracy"] == pytest.approx(hits.mean())
    assert found["by_class"][ID2LABEL[1]]["accuracy"] == pytest.approx(hits[labels == 1].mean())
    convention = found["convention"]
    assert convention["rounding"] == "truncate" and convention["num_images"] == NUM_IMAGES
    assert convention["num_reference_images"] == 15 and "shuffled" in convention["order"]
    assert found["sampler"]["num_inference_steps"] == 4 and found["seed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_make_equal_images_and_numbers(things, report, count, tmp_path):
    expected, images, _ = report
    options = (*measured(things), "-o", tmp_path / "out", "--keep", "npz", "--json")
    first, *others = run_processes(command(things, *options), count)
    assert others == [""] * (count - 1)
    assert json.loads(first)["numbers"] == expected["numbers"]
    assert np.array_equal(np.load(tmp_path / "out" / "images.npz")["arr_0"], images)


def test_a_killed_run_goes_on_and_gives_the_same_numbers(things, report, tmp_path, monkeypatch):
    options = (*measured(things), "-o", tmp_path / "out")
    calls, original = [], module.generate

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "generate", killed)
    result = CliRunner().invoke(app, command(things, *options))
    assert result.exit_code == 130 and result.stdout == "" and not (tmp_path / "out" / "report.json").exists()
    assert numbers_of(things, *options)["numbers"] == report[0]["numbers"]
    assert len(calls) == 3 + 3 + 3  # of five chunks two were kept; then the sheet of three classes
    result = CliRunner().invoke(app, command(things, *options, "--seed", "1"))
    assert result.exit_code == 1 and "(seed: 0 there, 1 here)" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_inception_gives_the_published_metrics_and_npz_the_same_ones(things, tmp_path):
    torch.manual_seed(0)
    network = InceptionNetwork()
    for parameter in network.parameters():  # a fresh network maps all images to nearly the same features
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    weights, reference = tmp_path / "inception.pth", tmp_path / "reference.npz"
    torch.save(network.state_dict(), weights)
    np.savez(reference, np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    options = ("--network", weights, "--reference", reference, "-n", 6, "-o", tmp_path / "out", "--keep", "npz")
    found = numbers_of(things, *options)
    assert found["numbers"].keys() == {
        *("fid", "sfid", "inception_score", "inception_score_std", "precision", "recall")
    }
    files = [str(tmp_path / "out" / "images.npz"), str(reference), "--weights", str(weights), "--json"]
    result = CliRunner().invoke(app, ["evaluate", "npz", *files])
    assert json.loads(result.stdout)["numbers"] == pytest.approx(found["numbers"], rel=1e-3)


@pytest.mark.parametrize("num_images", [2, 25])
def test_any_number_of_images_is_measured_and_unequal_classes_are_said(num_images, things):
    plan = GenerationPlan(num_images, 3)
    counts = plan.labels.bincount(minlength=3)
    assert counts.sum() == num_images and counts.max() - counts.min() == 1
    assert len(set(zip(plan.labels.tolist(), plan.indices.tolist(), strict=True))) == num_images
    found = numbers_of(things, "-n", num_images, *measured(things))
    assert found["convention"]["order"] == "shuffled classes, nearly equally many images of each"
    assert any("one image more than others" in warning for warning in found["warnings"])
    assert len(found["by_class"]) == min(num_images, 3)


def test_images_are_kept_as_a_data_set(things, report, tmp_path):
    numbers_of(things, "--keep", "parquet", "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("generated.png", "images.parquet", "report.json", "settings.json")
    ]
    dataset = load_dataset("parquet", data_files=str(tmp_path / "out" / "images.parquet"), split="train")
    assert np.array_equal(np.stack([np.asarray(image) for image in dataset["image"]]), report[1])
    assert dataset["label"] == report[2].tolist() and dataset.features["label"].names == list(ID2LABEL.values())


def test_images_alone_are_kept_without_a_network(things, report, tmp_path):
    result = CliRunner().invoke(app, command(things, "--keep", "npz", "-o", tmp_path / "out", "--batch-size", "5"))
    assert result.exit_code == 0, result.output
    # Nothing was measured: neither a table of metrics nor what metrics depend on.
    assert "metric" not in result.stdout and "score block" not in result.stdout
    assert f"num images: {NUM_IMAGES}" in result.stdout
    with np.load(tmp_path / "out" / "images.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], report[1])


def test_a_generator_that_repeats_its_training_images_is_found_out(things, tmp_path):
    """The reference is the training set here, so that its images are copies and generated ones are not."""
    training = ("--training-data", things / "data", "--training-split", "test")
    found = numbers_of(things, *measured(things), *training, "-o", tmp_path / "out")["memorization"]
    assert found["copy_share_held_out"] == 1.0 and found["median_distance_held_out"] == 0.0
    assert found["copy_share_generated"] < 0.5
    assert (tmp_path / "out" / "nearest.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no network for the metrics. Download https://"),
        (["--keep", "npz"], "--keep needs a folder"),
        (["--network", "JUDGE", "--training-data", "/nowhere"], "Name their data set with --reference"),
        (
            ["--network", "JUDGE", "--reference", "NPZ"],
            "images are 32 x 32 pixels and the reference 16 x 16",
        ),
        (["--network", "JUDGE", "--reference", "CUT"], "is no npz file or is cut off"),
        (
            ["--network", "JUDGE", "--reference", "ONE"],
            "A covariance needs at least two images, but .*one.npz holds 1.",
        ),
        (["--network", "JUDGE", "--reference", "FLOATS"], r"of shape \(num_images, height, width, 3\)"),
        (["--network", "JUDGE", "--reference", "STATISTICS"], "statistics of Inception alone.*reference with images"),
        (["--network", "JUDGE", "--reference", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_the_work(options, message, things, tmp_path, monkeypatch):
    np.savez(tmp_path / "reference.npz", np.zeros((5, 16, 16, 3), np.uint8))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "reference.npz").read_bytes()[:200])
    np.savez(tmp_path / "one.npz", np.zeros((1, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "floats.npz", np.zeros((5, 32, 32, 3), np.float32))
    np.savez(tmp_path / "statistics.npz", mu=0, sigma=0, mu_s=0, sigma_s=0)
    paths = {name.upper(): tmp_path / f"{name}.npz" for name in ("cut", "one", "floats", "statistics")}
    paths |= {"JUDGE": things / "judge", "NPZ": tmp_path / "reference.npz"}
    monkeypatch.setattr(module, "generate", lambda *arguments: pytest.fail("images were generated"))
    result = CliRunner().invoke(app, command(things, *[paths.get(option, option) for option in options]))
    assert result.exit_code == 1 and result.stdout == ""
    assert re.search(message, " ".join(result.stderr.split())) and "Traceback" not in result.stderr


def test_images_of_a_reference_serve_another_network_than_that_of_its_statistics(things, tmp_path):
    images = np.stack([np.full((32, 32, 3), 40 * number, np.uint8) for number in range(6)])
    np.savez(tmp_path / "images.npz", images)
    np.savez(tmp_path / "both.npz", images, mu=0, sigma=0, mu_s=0, sigma_s=0)
    plain, both = (
        numbers_of(things, "--network", things / "judge", "--reference", tmp_path / f"{name}.npz")
        for name in ("images", "both")
    )
    assert plain["numbers"] == both["numbers"] and "frechet_distance" in both["numbers"]
    assert both["convention"]["reference_statistics"] == "of its images"


def test_a_model_that_gives_no_numbers_is_not_measured():
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.tokenizer.decoder.class_token.fill_(float("nan"))
    with pytest.raises(ValueError, match="not all finite"):
        generate(pipeline, [0], [0], GenerationPlan(3, 3))


def test_a_tokenizer_alone_is_refused(things):
    arguments = ["evaluate", "generation", str(things / "model" / "tokenizer"), "--network", str(things / "judge")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "is a tokenizer alone" in result.stderr
