"""titok_hf.evaluation.inception: the published weights give what torch-fidelity's own code makes of them."""

import json
import math
from pathlib import Path

import pytest
import torch

import golden_fill
from titok_hf.evaluation.inception import INCEPTION_URL, InceptionNetwork, file_digest, load_inception

# Pooled and spatial features and logits without bias, every 64th, 53rd and 32nd, of `images`, which torch-fidelity
# computed with the weights below. It hands the spatial map out through a hook on Mixed_6d.branch1x1.
FIGURES = json.loads((Path(__file__).parents[1] / "data" / "inception.json").read_text())


def weight_of(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers with which a map keeps its scale from layer to layer."""
    if name.endswith("running_var"):
        return torch.from_numpy(golden_fill.uniform(f"inception:{name}", shape)) + 0.5
    mean = 1.0 if name.endswith("bn.weight") else 0.0
    std = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.from_numpy(golden_fill.normal(f"inception:{name}", shape, mean, std))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """As the published file names them: without the counters of the batch norms."""
    names = InceptionNetwork().state_dict()
    return {
        name: weight_of(name, tuple(tensor.shape))
        for name, tensor in names.items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(weights, path)
    return path


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(golden_fill.integers("inception-images", tuple(FIGURES["images"]), 256)).byte()


def test_features_equal_torch_fidelitys(file, images):
    features = load_inception(file)(images)
    torch.testing.assert_close(features.pooled[:, ::64], torch.tensor(FIGURES["pooled"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.spatial[:, ::53], torch.tensor(FIGURES["spatial"]), rtol=0, atol=1e-4)
    # Probabilities tell logits up to a number of each image, which goes out of their differences.
    logits, expected = features.probabilities.log()[:, ::32], torch.tensor(FIGURES["logits"])
    torch.testing.assert_close(logits - logits[:, :1], expected - expected[:, :1], rtol=0, atol=1e-3)
    assert features.spatial.shape == (2, 2023) and features.probabilities.shape == (2, 1008)


def test_an_image_has_the_same_features_in_any_batch(file, images):
    network = load_inception(file)
    together, alone = network(images), network(images[1:])
    torch.testing.assert_close(together.pooled[1:], alone.pooled, rtol=0, atol=1e-4)


def test_the_digest_is_that_of_the_file(file):
    assert len(file_digest(file)) == 8
    other = file.with_name("other.pth")
    other.write_bytes(file.read_bytes()[:-1] + b"x")
    assert file_digest(other) != file_digest(file)


@pytest.mark.parametrize("damage", ["missing", "cut off", "other names", "other shapes", "no weights"])
def test_a_wrong_file_is_one_error_that_names_the_right_one(damage, file, weights, tmp_path):
    path = tmp_path / "weights.pth"
    if damage == "cut off":
        path.write_bytes(file.read_bytes()[:1000])
    elif damage == "other names":
        torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    elif damage == "other shapes":
        torch.save(weights | {"fc.weight": torch.zeros(1000, 2048)}, path)
    elif damage == "no weights":
        torch.save([1, 2, 3], path)
    with pytest.raises(ValueError, match="weights.pth") as error:
        load_inception(path)
    assert INCEPTION_URL in str(error.value)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8).byte(), torch.zeros(3, 8, 8).byte()]
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match="uint8 of shape"):
        InceptionNetwork()(images)
