"""titok_hf.data.run_data: what is learnt and what is measured never meet; batches and test examples of a run."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image

from titok_hf.data.configs import CodeDataConfig, ImageDataConfig
from titok_hf.data.run_data import code_splits, image_splits, open_code_data, open_image_data


@pytest.fixture(scope="module")
def numbered_pictures(tmp_path_factory):
    """30 pictures in one folder; the grey value of each is its number."""
    folder = tmp_path_factory.mktemp("numbered")
    for number in range(30):
        Image.new("RGB", (8, 8), (number,) * 3).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def codes_of_two_views(tmp_path_factory):
    """Codes of 12 images, two views each; the first code is the number of the image, the second that of the view."""
    folder = tmp_path_factory.mktemp("codes")
    rows = [{"codes": [i, v, 0], "label": 0, "view": v, "source_index": i} for i in range(12) for v in range(2)]
    types = {"codes": List(Value("uint16")), "label": Value("int64"), "view": Value("int16")}
    features = Features(types | {"source_index": Value("int64")})
    (folder / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "data" / "train-00000.parquet")
    return folder


def numbers(dataset) -> list[int]:
    """The numbers of the pictures in a split of `numbered_pictures`."""
    return [image.convert("L").getpixel((0, 0)) for image in dataset["image"]]


def test_held_out_images_are_not_learnt_and_are_the_same_ones_in_every_run(numbered_pictures):
    config = ImageDataConfig(str(numbered_pictures), image_size=8, test_split=None)
    splits = image_splits(config, num_test=10)
    train, test = numbers(splits.train), numbers(splits.test)
    assert len(test) == 10
    assert sorted(train + test) == list(range(30))
    assert test != list(range(10)) and test != list(range(20, 30))  # data sets are often sorted by class
    assert numbers(image_splits(config, num_test=10).test) == test


def test_a_larger_share_of_tests_contains_the_smaller_one(numbered_pictures):
    config = ImageDataConfig(str(numbered_pictures), image_size=8, test_split=None)
    few, many = (set(numbers(image_splits(config, num_test=count).test)) for count in (5, 15))
    assert few < many


def test_a_test_split_is_taken_as_it_is(picture_folder):
    splits = image_splits(ImageDataConfig(str(picture_folder), image_size=28), num_test=3)
    assert (len(splits.train), len(splits.test)) == (20, 20)


def test_the_views_of_an_image_stay_together(codes_of_two_views):
    splits = code_splits(CodeDataConfig(str(codes_of_two_views)), num_test=4)
    assert (len(splits.train), len(splits.test)) == (16, 8)
    for split in (splits.train, splits.test):
        rows = np.array(split["codes"])[:, :2]
        assert (rows[::2, 0] == rows[1::2, 0]).all()
        assert rows[:, 1].tolist() == [0, 1] * (len(rows) // 2)
    assert not set(splits.train["source_index"]) & set(splits.test["source_index"])


def test_codes_of_test_images_may_lie_elsewhere(codes_of_two_views):
    config = CodeDataConfig(str(codes_of_two_views), test_source=str(codes_of_two_views))
    splits = code_splits(config, num_test=4)
    assert (len(splits.train), len(splits.test)) == (24, 24)


@pytest.mark.parametrize(
    ("change", "num_test", "message"),
    [
        ({"test_split": None}, 30, "has 30 examples, of which intervals.num_test_images=30"),
        ({"test_split": None, "streaming": True}, 5, "Name a test_split"),
        ({"source": "/nowhere/at/all"}, 5, "/nowhere/at/all"),
        ({"train_split": "training"}, 5, "training"),
        ({"test_split": "testing"}, 5, "testing"),
    ],
)
def test_data_that_cannot_be_split_are_refused(change, num_test, message, numbered_pictures):
    config = ImageDataConfig(**({"source": str(numbered_pictures), "image_size": 8, "test_split": None} | change))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        image_splits(config, num_test)


def test_codes_that_do_not_exist_are_refused():
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        code_splits(CodeDataConfig("/nowhere/at/all"), num_test=1)


def test_test_images_are_centred_and_never_mirrored(picture_folder):
    config = ImageDataConfig(str(picture_folder), 32, resize_mode="pad", random_crop=True, horizontal_flip=True)
    data = open_image_data(config, num_test=3, batch_size=4, with_labels=True)
    dataset, pixels = data.splits.test, data.test
    assert (pixels.shape, pixels.dtype) == ((3, 3, 32, 32), torch.uint8)
    assert data.test_labels.tolist() == dataset["label"][:3]
    for image, picture in zip(pixels, dataset["image"], strict=False):
        assert np.array_equal(image[:, 2:30, 2:30].permute(1, 2, 0).numpy(), np.array(picture.convert("RGB")))
        assert image[:, :2].sum() == image[:, :, 30:].sum() == 0


def test_fewer_test_images_than_asked_for_are_all_of_them(numbered_pictures):
    config = ImageDataConfig(str(numbered_pictures), 8, test_split="train")
    for num_test in (100, None):
        assert len(open_image_data(config, num_test, batch_size=4).test) == 30


def test_broken_test_images_stop_or_are_left_out(numbered_pictures, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(
            (numbered_pictures / "05.png").read_bytes()[: 9 if number == 1 else None]
        )
    config = ImageDataConfig(str(tmp_path), 8, test_split="train", broken_images="skip")
    assert open_image_data(config, 3, batch_size=1).test[:, 0, 0, 0].tolist() == [5, 5]
    with pytest.raises(ValueError, match=r"Image 1 \(.*1.png\) cannot be used"):
        open_image_data(ImageDataConfig(str(tmp_path), 8, test_split="train"), 3, batch_size=1)


def test_fewer_examples_than_a_batch_are_refused(numbered_pictures, codes_of_two_views):
    config = ImageDataConfig(str(numbered_pictures), 8, test_split=None)
    assert len(next(iter(open_image_data(config, 10, batch_size=20).loader))["pixels"]) == 20
    with pytest.raises(ValueError, match="batch_size is 21 in each of 1 processes, and there are 20 examples"):
        open_image_data(config, 10, batch_size=21)
    with pytest.raises(ValueError, match="batch_size is 9 in each of 1 processes, and there are 8 examples"):
        open_code_data(CodeDataConfig(str(codes_of_two_views)), 4, 9, codebook_size=12, num_latent_tokens=3)


def test_a_run_that_needs_a_test_split_says_so(numbered_pictures):
    with pytest.raises(ValueError, match="no test_split is named"):
        open_image_data(ImageDataConfig(str(numbered_pictures), 8, test_split=None), None, batch_size=1)


def test_test_codes_are_one_view_of_each_example_with_its_class(codes_of_two_views):
    data = open_code_data(CodeDataConfig(str(codes_of_two_views)), 4, 2, codebook_size=12, num_latent_tokens=3)
    held_out = data.splits.test["source_index"][::2]
    assert data.test[:, 0].tolist() == held_out and data.test_labels.tolist() == [0] * 4
    assert not set(held_out) & set(next(iter(data.loader))["codes"][:, 0].tolist())


def test_labels_are_opened_where_they_are_wanted(picture_folder):
    config = ImageDataConfig(str(picture_folder), image_size=28)
    without, with_labels = (image_splits(config, 3, with_labels=wanted) for wanted in (False, True))
    assert without.class_names is None and list(without.train.features) == ["image"]
    assert with_labels.class_names == with_labels.train.features["label"].names and len(with_labels.class_names) == 10


def parquet_of(folder, **labels_of_splits):
    """Pictures with these labels, in Parquet files of these splits."""
    for split, (labels, feature) in labels_of_splits.items():
        columns = {"image": [Image.new("RGB", (8, 8))] * len(labels), "label": labels}
        dataset = Dataset.from_dict(columns, features=Features({"image": datasets.Image(), "label": feature}))
        dataset.to_parquet(folder / f"{split}.parquet")
    return str(folder)


CLASSES = ClassLabel(names=["ant", "bee"])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (([0, 1, -1, 1], CLASSES), ([0], CLASSES), r"training split, 1 of 4 labels .* row 2 has -1.*in \[0, 2\)"),
        (([0, 1, None, None], CLASSES), ([0], CLASSES), "training split, 2 of 4 .* row 2 has no label, row 3 has no"),
        (([0, 1, 3, -2], Value("int64")), ([0], Value("int64")), r"row 3 has -2\. Labels .* in \[0, 4\)"),
        (([0, 1], CLASSES), ([0, -1], CLASSES), "test split, 1 of 2 labels are no class: row 1 has -1"),
        (([-1] * 9, CLASSES), ([0], CLASSES), r"9 of 9 .* row 4 has -1, \.\.\.\. Labels .*prepare"),
    ],
)
def test_labels_that_are_no_class_are_named_before_the_first_step(train, test, message, tmp_path):
    config = ImageDataConfig(parquet_of(tmp_path, train=train, test=test), image_size=8)
    with pytest.raises(ValueError, match=message):
        image_splits(config, num_test=1, with_labels=True)
    assert len(image_splits(config, num_test=1).train)  # a tokenizer learns from them nevertheless


def test_a_class_that_only_test_images_have_counts(tmp_path):
    source = parquet_of(tmp_path, train=([0, 1], Value("int64")), test=([2], Value("int64")))
    assert image_splits(ImageDataConfig(source, 8), 1, with_labels=True).class_names == ["0", "1", "2"]


@pytest.mark.parametrize("label", [None, -1])
def test_codes_without_a_class_are_refused(label, tmp_path):
    features = Features({"codes": List(Value("uint16")), "label": ClassLabel(names=["a"])})
    rows = Dataset.from_dict({"codes": [[1]] * 8, "label": [0] * 7 + [label]}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="In the training split, 1 of 8 labels are no class: row 7 has"):
        code_splits(CodeDataConfig(str(tmp_path)), num_test=1)
