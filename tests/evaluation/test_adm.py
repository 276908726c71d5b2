"""titok_hf.evaluation.adm: what the published evaluator computed from the same features, and direct formulas."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from golden_checkpoints import figures
from titok_hf.evaluation import adm
from titok_hf.evaluation.adm import (
    FeatureStatistics,
    Gaussian,
    frechet_distance,
    inception_score,
    neighbour_radii,
    precision_and_recall,
    resize_like_tensorflow1,
    squared_distances,
)

CASES, ARRAYS = figures("adm_evaluator")
CASES = CASES["cases"]
SETS = ("plain", "wide", "overflow")


def features_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return ARRAYS[f"{name}_ref"].float(), ARRAYS[f"{name}_sample"].float()


def statistics_of(features: torch.Tensor, batch_size: int = 100) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    for batch in features.split(batch_size):
        statistics.update(batch)
    return statistics


@pytest.mark.parametrize("name", SETS)
def test_the_frechet_distance_equals_the_published_evaluators(name):
    reference, samples = (statistics_of(features).compute() for features in features_of(name))
    assert frechet_distance(samples, reference) == pytest.approx(CASES[f"{name}_features"]["frechet"], rel=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_precision_and_recall_equal_the_published_evaluators(name):
    precision, recall = precision_and_recall(*features_of(name))
    assert precision == pytest.approx(CASES[f"{name}_features"]["precision"], abs=0.002)
    assert recall == pytest.approx(CASES[f"{name}_features"]["recall"], abs=0.005)


@pytest.mark.parametrize("name", SETS)
def test_radii_equal_the_published_evaluators(name):
    for features, kind in zip(features_of(name), ("ref", "sample"), strict=True):
        expected = ARRAYS[f"{name}_radii_{kind}"]
        # Four times a number of the size of a squared norm is rounded, by half a step at most; the sums of products
        # that are rounded first depend on their order too. Numbers that float16 cannot hold are computed in float32.
        step = 2**-23 if name == "overflow" else 2**-10
        bound = 4 * step * features.square().sum(dim=1).max().item()
        torch.testing.assert_close(neighbour_radii(features), expected, rtol=0, atol=bound)


def test_float16_is_what_decides_the_published_precision():
    """Or the tests above would say nothing of the emulation."""
    reference, samples = features_of("plain")
    plain = reference.square().sum(dim=1)[:, None] - 2 * reference @ samples.T + samples.square().sum(dim=1)
    assert not torch.equal(plain, squared_distances(*features_of("plain")))


@pytest.mark.parametrize("block", [150, 400, 10_000])
def test_precision_and_recall_do_not_depend_on_the_size_of_the_blocks(block, monkeypatch):
    expected = precision_and_recall(*features_of("plain"))
    monkeypatch.setattr(adm, "DISTANCE_BLOCK", block)
    assert precision_and_recall(*features_of("plain")) == expected


def test_precision_and_recall_equal_the_definition():
    rng = np.random.default_rng(0)
    reference, samples = rng.integers(-8, 9, (40, 3)), rng.integers(-6, 7, (50, 3))  # exact in float16

    def inside(points, others):
        squared = ((others[:, None] - others[None]) ** 2).sum(-1)
        radii = np.sort(squared, axis=1)[:, 3]
        return ((((points[:, None] - others[None]) ** 2).sum(-1)) <= radii).any(1).mean()

    found = precision_and_recall(torch.from_numpy(reference).float(), torch.from_numpy(samples).float())
    assert found == (inside(samples, reference), inside(reference, samples))


@pytest.mark.parametrize("block", [5000, 500, 400])
def test_the_inception_score_equals_the_published_evaluators(block):
    mean, _ = inception_score(ARRAYS["is_probabilities"], block)
    assert mean == pytest.approx(CASES["inception_score"][str(block)], rel=1e-5)


def test_the_inception_score_depends_on_the_order_of_the_images():
    probabilities = torch.eye(4).repeat_interleave(100, dim=0)
    assert inception_score(probabilities, 100) == (1, 0)
    assert inception_score(probabilities[torch.randperm(400)], 400)[0] == pytest.approx(4)


@pytest.mark.parametrize(("num_features", "size"), [(64, 64), (64, 20), (2048, 100)])
def test_the_frechet_distance_equals_the_direct_formula(num_features, size):
    """Of full rank and of a smaller one. Both covariances share their eigenvectors, so the root is known."""
    rng = torch.Generator().manual_seed(num_features)
    basis = torch.linalg.qr(torch.randn(num_features, size, generator=rng, dtype=torch.float64)).Q
    values = torch.rand(2, size, generator=rng, dtype=torch.float64)
    means = torch.rand(2, num_features, generator=rng, dtype=torch.float64)
    gaussians = [Gaussian(mean, basis * value @ basis.T) for mean, value in zip(means, values, strict=True)]
    expected = (means[0] - means[1]).square().sum() + (values[0].sqrt() - values[1].sqrt()).square().sum()
    assert frechet_distance(*gaussians) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(gaussians[0], gaussians[0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("mean", [0, 1e4])
def test_statistics_equal_numpys_in_any_batches_and_processes(mean):
    features = torch.randn(301, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + mean
    expected = np.cov(features.numpy().T)
    whole = statistics_of(features, 64)
    merged = FeatureStatistics(16)  # as a process that had no image
    for part in features.split([1, 100, 200]):
        merged.merge(statistics_of(part, 30))
    for statistics in (whole, merged):
        found = statistics.compute()
        np.testing.assert_allclose(found.mean.numpy(), features.mean(0).numpy(), rtol=1e-12)
        np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert merged.count == 301


@pytest.mark.parametrize("name", ["small", "big"])
def test_resizing_equals_tensorflow_1(name):
    if name == "small":
        images = ARRAYS["resize_small_in"]
    else:
        images = ARRAYS["resize_big_in_crop_seed"]
    resized = resize_like_tensorflow1(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, ::23, ::23]
    assert resized.dtype == torch.float32
    torch.testing.assert_close(resized, ARRAYS[f"resize_{name}_out_rows"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureStatistics(4).update(torch.zeros(2, 5)), r"\(2, 5\).*\(batch, 4\)"),
        (lambda: statistics_of(torch.zeros(1, 4)).compute(), "1 images.*at least two"),
        (lambda: statistics_of(torch.full((3, 4), torch.nan)).compute(), "not finite"),
        (lambda: Gaussian(torch.zeros(3), torch.zeros(4, 4)), r"\(3,\).*\(4, 4\)"),
        (
            lambda: frechet_distance(
                Gaussian(torch.zeros(3), torch.zeros(3, 3)), Gaussian(torch.zeros(4), torch.zeros(4, 4))
            ),
            "3 features.*4.*same layer",
        ),
        (lambda: inception_score(torch.zeros(0, 8)), "shape"),
        (lambda: inception_score(torch.ones(3, 8)), "add up to 1"),
        (lambda: inception_score(torch.full((3, 8), torch.nan)), "not finite"),
        (lambda: precision_and_recall(torch.zeros(3, 8), torch.zeros(9, 8)), "3 reference images.*more than 3"),
        (lambda: precision_and_recall(torch.zeros(9, 8), torch.zeros(9, 7)), "same number of features"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


PEAK_MEMORY = """
from pathlib import Path
import torch
from titok_hf.evaluation.adm import precision_and_recall
reference, samples = torch.rand(2, 10_000, 32)
precision_and_recall(reference[:9], samples[:9])
def peak():  # in KiB; not ru_maxrss, which starts at that of the parent process
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
precision_and_recall(reference, samples)
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_precision_and_recall_hold_one_block_of_distances_in_memory():
    """A block has 381 MiB. With two sets of 50,000 x 2,048 features, 781 MiB, and torch all stays under 3 GB."""
    measured = subprocess.run([sys.executable, "-c", PEAK_MEMORY], capture_output=True, text=True, check=True)
    assert 381 < float(measured.stdout) < 900
