"""titok_hf.evaluation.memorization: neighbours are exact, and a planted copy is found."""

import pytest
import torch

from titok_hf.evaluation.memorization import copy_share, find_nearest_neighbors, memorization_report


def random_images(count, seed):
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_neighbours_equal_those_of_all_pairwise_distances(batch_size):
    queries, references = random_images(9, seed=0), random_images(50, seed=1)
    found = find_nearest_neighbors(queries, references.split(batch_size))
    pairwise = torch.cdist(queries.flatten(1).double() / 255, references.flatten(1).double() / 255)
    distances, indices = pairwise.topk(2, largest=False)
    assert torch.equal(found.indices, indices)
    assert torch.allclose(found.distances.double(), distances, atol=1e-5)
    assert torch.equal(found.images, references[indices[:, 0]])


def test_a_copy_has_distance_zero():
    references = random_images(20, seed=0)
    found = find_nearest_neighbors(references[[4, 17]], references.split(6))
    assert found.indices[:, 0].tolist() == [4, 17]
    assert found.distances[:, 0].tolist() == [0.0, 0.0]


def test_one_reference_is_too_few():
    with pytest.raises(ValueError, match="among 1 references"):
        find_nearest_neighbors(random_images(2, seed=0), [random_images(1, seed=1)])


def test_planted_copies_are_found_and_unseen_images_are_not():
    references, unseen = random_images(300, seed=0), random_images(100, seed=1)
    generated = unseen.clone()
    generated[:10] = references[:10]
    generated[:10, :, 0, 0] ^= 1  # not to the bit
    neighbors = {
        name: find_nearest_neighbors(images, references.split(64))
        for name, images in (("generated", generated), ("held_out", unseen), ("reconstructed", unseen))
    }
    report = memorization_report(**neighbors)
    assert report["copy_share_generated"] == pytest.approx(0.1)
    assert report["copy_share_held_out"] == 0.0
    assert report["near_share"] == pytest.approx(0.1, abs=0.02)
    assert report["distance_ratio"] == pytest.approx(1.0, abs=0.02)
    assert copy_share(neighbors["generated"]) == pytest.approx(0.1)


def test_unseen_images_are_as_far_as_unseen_images():
    references = random_images(300, seed=0)
    first, second = (find_nearest_neighbors(random_images(200, seed), references.split(64)) for seed in (1, 2))
    report = memorization_report(first, second, second)
    assert report["near_share"] < 0.05
    assert report["distance_ratio"] == pytest.approx(1.0, abs=0.02)
