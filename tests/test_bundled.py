"""The bundled checkpoint: whole, small enough, and as good on its examples as its card says of the test set."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from titok_hf import TiTokPipeline, bundled_checkpoint
from titok_hf.bundled import example_images
from titok_hf.evaluation.numbers import read_report

# Printed by this test and by a new process: the pictures of one call.
DIGEST_OF_A_CALL = """
import hashlib, sys, torch
from titok_hf import TiTokPipeline
pipe = TiTokPipeline.from_pretrained(sys.argv[1])
images = pipe(["Bag", 7], generator=torch.Generator().manual_seed(3)).images
print(hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest())
"""


@pytest.fixture(scope="module")
def pipe() -> TiTokPipeline:
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_weights_are_safetensors_of_at_most_twelve_megabytes():
    sizes = {path: path.stat().st_size for path in bundled_checkpoint().rglob("*") if path.is_file()}
    assert {path.suffix for path in sizes} <= {".safetensors", ".json", ".md", ".png", ".py"}
    assert 1e6 < sum(size for path, size in sizes.items() if path.suffix == ".safetensors") <= 12e6


def test_the_card_names_the_sampler_that_is_saved():
    folder = bundled_checkpoint()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "titok-hf"
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert f"{scheduler['num_inference_steps']} steps, Gumbel temperature {scheduler['temperature']}" in card
    assert f"guidance of scale {scheduler['guidance_scale']}" in card


def test_the_card_shows_what_the_evaluation_printed():
    folder = bundled_checkpoint()
    card = (folder / "README.md").read_text(encoding="utf-8")
    report = read_report(folder / "reconstruction.json")
    assert "titok-hf evaluate reconstruction titok-fashion-32" in card
    assert report.convention.num_images == 10_000 and report.convention.crop == "pad"
    assert report.convention.network.split()[-1] in card
    for name, title, unit in (
        ("frechet_distance", "Fréchet distance in the features of a classifier", ""),
        ("psnr", "PSNR", " dB"),
        ("ssim", "SSIM", ""),
        ("l1", "L1", ""),
        ("mse", "MSE", ""),
        ("psnr_inside_padding", "PSNR inside the padding", " dB"),
        ("codebook_entropy", "codebook entropy", " bits"),
    ):
        assert f"| {title} | {report.values[name]:.4f}{unit} |" in card
    generated = read_report(folder / "generation.json")
    assert f"titok-hf evaluate generation titok-fashion-32 -n {generated.convention.num_images}" in card
    assert f"classifier, generated | {generated.values['frechet_distance']:.4f} |" in card
    for name in ("precision", "recall"):
        assert f"| {name} | {generated.values[name]:.4f} |" in card
    for measured, name, title in (
        (report, "accuracy", "on reconstructions"),
        (report, "accuracy_on_originals", "on the originals"),
        (generated, "accuracy", "on generated images"),
    ):
        assert f"| accuracy of the classifier {title} | {measured.values[name]:.2%} |" in card
    assert generated.convention.network.split()[-1] in card
    memorization = json.loads((folder / "generation.json").read_text())["memorization"]
    assert f"median pixel distance {memorization['median_distance_generated']:.2f}" in card
    assert f"ratio {memorization['distance_ratio']:.2f}" in card


def test_it_reaches_what_was_asked_of_it():
    reconstruction, generation, earlier = (
        json.loads((bundled_checkpoint() / f"{name}.json").read_text())
        for name in ("reconstruction", "generation", "metrics")
    )
    numbers = reconstruction["numbers"]
    assert numbers["psnr"] >= 22 and numbers["codebook_usage"] >= 0.9
    assert numbers["accuracy_on_originals"] >= 0.9
    assert numbers["accuracy"] >= 0.87 and generation["numbers"]["accuracy"] >= 0.9
    by_class = [*reconstruction["by_class"].values(), *generation["by_class"].values()]
    assert min(each["accuracy"] for each in by_class) >= 0.65
    assert earlier["judge"]["real"]["accuracy"] >= 0.91 and earlier["judge"]["reconstructed"]["accuracy"] >= 0.87
    assert earlier["memorization"]["copy_share_generated"] == 0


def test_examples_are_two_real_pictures_of_each_class():
    assert [path.name[0] for path in example_images()] == [str(label) for label in range(10) for _ in range(2)]


def test_it_reconstructs_its_examples(pipe):
    originals = pipe.preprocess(example_images())
    reconstructions = pipe.reconstruct(originals, output_type="pt")
    error = (originals - reconstructions).square().flatten(1).mean(1)
    assert (-10 * error.log10()).mean() > 22


def test_its_codes_are_varied(pipe):
    codes = pipe.encode(example_images())
    assert codes.shape == (20, 32)
    assert len(codes.unique()) > 150


def test_a_generated_class_is_nearest_to_real_pictures_of_that_class(pipe):
    """Trousers, sneakers and bags have silhouettes of their own: the mean picture tells them apart."""
    originals = pipe.preprocess(example_images())
    labels = [1, 7, 8]
    means = torch.stack([originals[2 * label : 2 * label + 2].mean(0) for label in labels])
    images = pipe(labels, num_images_per_class=8, generator=torch.Generator().manual_seed(0), output_type="pt").images
    for index, label in enumerate(labels):
        distances = (images[8 * index : 8 * index + 8].mean(0) - means).square().flatten(1).mean(1)
        assert distances.argmin() == index, label


def test_a_picture_of_twenty_eight_pixels_is_padded_as_in_training(pipe):
    pixel_values = pipe.preprocess(example_images())
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert (pixel_values[:, :, border] == 0).all()


def test_an_image_with_its_own_generator_does_not_depend_on_its_batch(pipe):
    def codes(labels, seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(labels, generator=generators, output_type="latent").images

    together = codes([0, 3, 5, 9], [10, 11, 12, 13])
    for index, (label, seed) in enumerate(zip([0, 3, 5, 9], [10, 11, 12, 13], strict=True)):
        assert torch.equal(codes([label], [seed])[0], together[index])


@pytest.mark.slow
def test_a_saved_pipeline_gives_the_same_pictures_in_a_new_process(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    images = pipe(["Bag", 7], generator=torch.Generator().manual_seed(3)).images
    here = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
    command = [sys.executable, "-c", DIGEST_OF_A_CALL, str(tmp_path / "saved")]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert there == here
    assert np.asarray(images[0]).std() > 10


def test_an_unknown_name_lists_what_is_bundled():
    with pytest.raises(
        ValueError, match="No checkpoint named 'titok-l32' is bundled. Choose one of: titok-fashion-32"
    ):
        bundled_checkpoint("titok-l32")
