"""titok_hf.evaluation.npz: files of images compared as the published evaluator compares them."""

import numpy as np
import pytest
import torch

import golden_fill
from titok_hf.evaluation.adm import FeatureStatistics, inception_score, precision_and_recall
from titok_hf.evaluation.features import FeatureNetwork
from titok_hf.evaluation.inception import NUM_POOLED, NUM_SPATIAL, InceptionNetwork
from titok_hf.evaluation.npz import NpzFile, compare


def images_of(seed: str, count: int) -> np.ndarray:
    """uint8, shape (count, 32, 32, 3), the images smooth and unlike one another."""
    coarse = golden_fill.integers(seed, (count, 4, 4, 3), 256).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


SAMPLES, REFERENCE = images_of("npz-samples", 9), images_of("npz-reference", 7)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    torch.manual_seed(0)
    network = InceptionNetwork()
    for parameter in network.parameters():  # a fresh network maps all images to nearly the same features
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return FeatureNetwork(network)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("npz")
    np.savez(folder / "samples.npz", SAMPLES)
    np.savez_compressed(folder / "reference.npz", REFERENCE)
    return {name: str(folder / f"{name}.npz") for name in ("samples", "reference")}


@pytest.fixture(scope="module")
def features(network):
    return {
        name: network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        for name, images in (("samples", SAMPLES), ("reference", REFERENCE))
    }


def distance_of(first: torch.Tensor, second: torch.Tensor) -> float:
    """
    Fréchet distance straight from the features of few images: with C = X^T X the trace of the root of C1 C2 is the sum
    of the singular values of X1 X2^T, a matrix of images by images.
    """
    first, second = first.double(), second.double()
    scaled = [(x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (first, second)]
    root = torch.linalg.svdvals(scaled[0] @ scaled[1].T).sum()
    traces = sum(x.square().sum() for x in scaled)
    return ((first.mean(dim=0) - second.mean(dim=0)).square().sum() + traces - 2 * root).item()


def gaussian_of(features: torch.Tensor):
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics.compute()


@pytest.mark.slow
def test_the_numbers_are_those_of_all_features_at_once(files, network, features):
    done = []
    found = compare(files["samples"], files["reference"], network, batch_size=4, progress=done.append)
    samples, reference = features["samples"], features["reference"]
    expected = {
        "fid": distance_of(samples.pooled, reference.pooled),
        "sfid": distance_of(samples.spatial, reference.spatial),
    }
    expected["inception_score"], expected["inception_score_std"] = inception_score(samples.probabilities)
    expected["precision"], expected["recall"] = precision_and_recall(reference.pooled, samples.pooled)
    assert found.values == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert sum(done) == 16 and "9 images are fewer than the 2048 features" in found.warnings[0]
    assert found.convention.num_images == 9 and found.convention.num_reference_images == 7


@pytest.mark.slow
def test_stored_statistics_serve_for_the_distances(files, network, features, tmp_path):
    pooled, spatial = gaussian_of(features["reference"].pooled), gaussian_of(features["reference"].spatial)
    arrays = {"mu": pooled.mean, "sigma": pooled.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    path = tmp_path / "statistics.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})
    found = compare(files["samples"], path, network)
    expected = distance_of(features["samples"].spatial, features["reference"].spatial)
    assert found.values["sfid"] == pytest.approx(expected, rel=1e-4)
    assert "precision" not in found.values and found.convention.reference_statistics == "as stored"

    # Statistics are stored with the channels last. Of features with the channels first the distance is another one.
    order = torch.arange(NUM_SPATIAL).view(17, 17, 7).permute(2, 0, 1).flatten()
    wrong = distance_of(features["samples"].spatial[:, order], features["reference"].spatial)
    assert abs(wrong - expected) > 0.1 * expected


def test_batches_are_the_images_in_order(files):
    file = NpzFile.open(files["reference"])
    assert file.shape == (7, 32, 32, 3) and not file.has_statistics
    found = torch.cat(list(file.batches(3)))
    assert torch.equal(found, torch.from_numpy(REFERENCE.transpose(0, 3, 1, 2).copy()))


@pytest.mark.parametrize(("labels", "is_sorted"), [([0, 0, 1, 1], True), ([1, 0, 1, 0], False), ([2, 2, 2, 2], False)])
def test_sorted_labels_are_seen(labels, is_sorted, tmp_path):
    np.savez(tmp_path / "samples.npz", SAMPLES[:4], np.array(labels))
    assert NpzFile.open(tmp_path / "samples.npz").has_sorted_labels() is is_sorted


def cut_off(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("arrays", "damage", "message"),
    [
        (None, None, "does not exist"),
        ([SAMPLES], cut_off, "no npz file or is cut off"),
        ([SAMPLES], damaged, "damaged.*CRC"),
        ([SAMPLES / 255], None, "float64"),
        ([SAMPLES[..., 0]], None, r"\(9, 32, 32\)"),
        ([SAMPLES[:1]], None, "at least two images.*holds 1"),
        ([SAMPLES[:, :16]], None, "32 x 16 pixels and the reference 32 x 32"),
        ({"images": SAMPLES}, None, "holds images.*arr_0, or mu"),
        (
            {"mu": np.zeros(3), "sigma": np.zeros(3), "mu_s": np.zeros(3), "sigma_s": np.zeros(3)},
            None,
            "statistics alone",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_error(arrays, damage, message, files, network, tmp_path):
    path = tmp_path / "samples.npz"
    if arrays is not None:
        np.savez(path, *(arrays if isinstance(arrays, list) else []), **(arrays if isinstance(arrays, dict) else {}))
    if damage is not None:
        damage(path)
    with pytest.raises((OSError, ValueError), match=message):
        compare(path, files["reference"], network)


def test_wrong_statistics_are_refused(files, network, tmp_path):
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=np.zeros(NUM_POOLED), sigma=np.zeros((4, 4)), mu_s=np.zeros(4), sigma_s=np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"sigma has shape \(4, 4\), but \(2048, 2048\)"):
        compare(files["samples"], path, network)
    sizes = {"mu": NUM_POOLED, "mu_s": NUM_SPATIAL}
    values = {name: np.full(size, np.nan) for name, size in sizes.items()}
    np.savez(path, **values, sigma=np.eye(NUM_POOLED), sigma_s=np.eye(NUM_SPATIAL))
    with pytest.raises(ValueError, match="statistics.npz: mu holds values that are not finite"):
        compare(files["samples"], path, network)


def test_a_distance_of_another_network_is_no_fid(files, tmp_path):
    pooling = FeatureNetwork(torch.nn.Sequential(Pixels(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()))
    found = compare(files["samples"], files["reference"], pooling)
    assert {"frechet_distance", "precision", "recall"} == found.values.keys()


class Pixels(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255
