"""titok_hf.data.loaders: the order, the augmentation, the shares of processes, and an exact resume."""

from itertools import islice

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from image_sources import encoded, picture
from titok_hf.data import transforms
from titok_hf.data.loaders import CodeLoader, ImageLoader
from titok_hf.data.shards import Part

NUM_IMAGES = 23


@pytest.fixture(scope="module")
def images():
    rows = {"image": [encoded(n) for n in range(NUM_IMAGES)], "label": [n % 3 for n in range(NUM_IMAGES)]}
    rows["source_index"] = list(range(NUM_IMAGES))
    features = {"image": Image(), "label": ClassLabel(num_classes=3), "source_index": Value("int64")}
    return Dataset.from_dict(rows, features=Features(features))


@pytest.fixture(scope="module")
def codes():
    """Three views of each image; a code tells image and view."""
    rows = [(image, view) for image in range(NUM_IMAGES) for view in range(3)]
    columns = {
        "codes": [[image, view] for image, view in rows],
        "label": [image % 3 for image, _ in rows],
        "view": [view for _, view in rows],
        "source_index": [image for image, _ in rows],
    }
    features = {"codes": List(Value("uint16"), length=2), "label": ClassLabel(num_classes=3)}
    features |= {"view": Value("int16"), "source_index": Value("int64")}
    return Dataset.from_dict(columns, features=Features(features))


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def streaming(dataset):
    return dataset.to_iterable_dataset(num_shards=4)


def test_without_augmentation_it_is_the_data_set(images):
    loader = ImageLoader(images, 32, batch_size=5, random_crop=False, flip=False, shuffle=False)
    batch = next(iter(loader))
    assert batch["pixels"].dtype == torch.uint8 and batch["label"].tolist() == [0, 1, 2, 0, 1]
    expected = np.stack([np.asarray(transforms.center_square(picture(n), 32)) for n in range(5)])
    assert np.array_equal(batch["pixels"].permute(0, 2, 3, 1), expected)


def test_augmentation_differs_from_epoch_to_epoch_and_mirrors_half(images):
    loader = ImageLoader(images, 32, batch_size=23, random_crop=False, shuffle=False)
    expected = np.stack([np.asarray(transforms.center_square(picture(n), 32)) for n in range(23)])
    mirrored = []
    for batch in islice(loader, 4):
        pixels = batch["pixels"].permute(0, 2, 3, 1).numpy()
        mirrored.append((pixels == expected[:, :, ::-1]).all(axis=(1, 2, 3)))
        assert (mirrored[-1] | (pixels == expected).all(axis=(1, 2, 3))).all()
    assert 20 < np.sum(mirrored) < 72 and not (mirrored[0] == mirrored[1]).all()
    crops = [batch["pixels"] for batch in islice(ImageLoader(images, 32, 23, flip=False, shuffle=False), 2)]
    assert not torch.equal(*crops)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("taken", [0, 3, 5, 7])
def test_a_resumed_loader_gives_what_it_would_have_given(images, codes, stream, taken):
    def loaders(part=None):
        wrap = streaming if stream else lambda dataset: dataset
        return ImageLoader(wrap(images), 16, 4, part=part), CodeLoader(wrap(codes), 4, num_views=3, part=part)

    for straight, stopped, resumed in zip(loaders(), loaders(), loaders(), strict=True):
        expected = list(islice(straight, 12))
        for _ in islice(stopped, taken):
            pass
        resumed.load_state_dict(stopped.state_dict())
        assert same(list(islice(resumed, 12 - taken)), expected[taken:])
        assert not same(expected[:5], expected[5:10])


def test_workers_do_not_matter(images):
    alone, helped = (islice(ImageLoader(images, 16, 4, workers=workers), 7) for workers in (0, 2))
    assert same(list(alone), list(helped))


@pytest.mark.parametrize("stream", [False, True])
def test_processes_share_an_epoch(codes, stream):
    dataset = streaming(codes) if stream else codes
    seen = []
    for index in range(2):
        loader = CodeLoader(dataset, batch_size=1, num_views=3, part=Part(index, 2), seed=5)
        seen.append([])
        for batch in loader:
            if loader.epoch or loader.state_dict()["position"] > 11:
                break
            seen[-1].append(batch["codes"][0, 0].item())
    assert set(seen[0]).isdisjoint(seen[1])
    if not stream:
        assert len(seen[0]) == len(seen[1]) == 11  # equally many, so that no process waits for another
        assert len({*seen[0], *seen[1]}) == 22


def test_an_epoch_has_one_view_of_each_image_and_the_next_has_others(codes):
    for dataset in (codes, streaming(codes)):
        loader = CodeLoader(dataset, batch_size=23, num_views=3)
        epochs = [batch["codes"] for batch in islice(loader, 20)]
        assert all(sorted(epoch[:, 0].tolist()) == list(range(23)) for epoch in epochs)
        views = torch.stack([epoch[epoch[:, 0].argsort(), 1] for epoch in epochs])
        assert all(len(views[:, image].unique()) == 3 for image in range(23))
        assert epochs[0].dtype == torch.int64


@pytest.mark.parametrize("stream", [False, True])
def test_each_epoch_has_its_own_order(codes, stream):
    rows = codes.filter(lambda view: view == 0, input_columns="view")
    loader = CodeLoader(streaming(rows) if stream else rows, batch_size=23)
    first, second = (batch["codes"][:, 0].tolist() for batch in islice(loader, 2))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second


def test_kl_latents_come_as_float32():
    features = Features({"latents": List(List(Value("float16"), length=2), length=3), "view": Value("int16")})
    rows = {"latents": np.full((4, 3, 2), 0.5, dtype=np.float16).tolist(), "view": [0] * 4}
    batch = next(iter(CodeLoader(Dataset.from_dict(rows, features=features), batch_size=4)))
    assert batch["latents"].dtype == torch.float32 and batch["latents"].shape == (4, 3, 2) and "label" not in batch


def test_bad_input_is_named(images, codes):
    with pytest.raises(ValueError, match="num_views"):
        CodeLoader(codes, batch_size=4)
    with pytest.raises(ValueError, match="fewer than 24 examples"):
        next(iter(ImageLoader(images, 16, batch_size=24)))
    with pytest.raises(ValueError, match="batch_size is 0"):
        ImageLoader(images, 16, batch_size=0)
    broken = Dataset.from_dict(
        {"image": [{"bytes": b"no picture", "path": None}]}, features=Features({"image": Image()})
    )
    with pytest.raises(ValueError, match="Image 0 cannot be used: it is no picture"):
        next(iter(ImageLoader(broken, 16, batch_size=1)))
