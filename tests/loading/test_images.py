"""Images as an evaluation reads them: real idx files, folders and parquet, small; what damages them is named."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from titok_hf.data.idx_files import FASHION_MNIST_CLASSES
from titok_hf.data.training_data import class_names, open_images
from titok_hf.evaluation.images import EvaluationImages


def write_idx(path, array):
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)


@pytest.fixture
def idx_folder(tmp_path, pictures):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for prefix, count in (("train", 12), ("t10k", 5)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", pictures[:count])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return folder


@pytest.fixture
def image_folder(tmp_path):
    for split in ("train", "test"):
        for index, name in enumerate(("bag", "coat")):
            folder = tmp_path / "clothes" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 6), (index * 200, 0, 0)).save(folder / "0.png")
    return tmp_path / "clothes"


def test_idx_files_become_images_with_named_classes(idx_folder, pictures):
    dataset = open_images(str(idx_folder), "train")
    assert class_names(dataset) == list(FASHION_MNIST_CLASSES)
    assert dataset[3]["label"] == 3
    assert np.array_equal(np.asarray(dataset[3]["image"]), pictures[3])
    assert len(open_images(str(idx_folder), "test")) == 5


def test_other_idx_folders_number_their_classes(idx_folder):
    digits = idx_folder.rename(idx_folder.with_name("mnist"))
    assert class_names(open_images(str(digits), "test")) == [str(digit) for digit in range(10)]


def test_idx_folders_have_the_same_classes_in_both_splits(idx_folder, pictures):
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", np.arange(len(open_images(str(idx_folder)))) % 13)
    names = [open_images(str(idx_folder), split).features["label"].names for split in ("train", "test")]
    assert names[0] == names[1] and len(names[0]) > 10


def test_padding_centres_the_pixels_on_black(idx_folder, pictures):
    images, labels = EvaluationImages(str(idx_folder), "train", 32, "pad").read(range(12))
    assert images.shape == (12, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.tolist() == [index % 10 for index in range(12)] and labels.dtype == torch.int64
    assert torch.equal(images[:, 1, 2:-2, 2:-2], torch.from_numpy(pictures))
    assert images.sum().item() == 3 * pictures.sum(dtype=np.int64)  # nothing but black around


def test_any_images_are_read_again(idx_folder):
    data = EvaluationImages(str(idx_folder), "train", 32, "pad")
    images, labels = data.read(range(12))
    some, some_labels = data.read([7, 2])
    assert torch.equal(some, images[[7, 2]]) and torch.equal(some_labels, labels[[7, 2]])
    assert torch.equal(
        EvaluationImages(str(idx_folder), "train", 32, "pad", limit=3).read(range(3))[1], labels[[0, 6, 11]]
    )


def test_image_folders_are_resized_and_named_by_folder(image_folder):
    dataset = open_images(str(image_folder), "test")
    images, labels = EvaluationImages(str(image_folder), "test", 4).read(range(2))
    assert class_names(dataset) == ["bag", "coat"]
    assert labels.tolist() == [0, 1]
    assert images[:, 0].unique().tolist() == [0, 200] and images[:, 1:].max() == 0


def test_parquet_keeps_classes_and_other_column_names_are_understood(idx_folder, tmp_path):
    path = tmp_path / "test.parquet"
    dataset = open_images(str(idx_folder), "test").rename_columns({"image": "picture", "label": "clothing"})
    dataset.to_parquet(path)
    loaded = open_images(str(path), "test")
    assert loaded.column_names == ["image", "label"]
    assert class_names(loaded) == list(FASHION_MNIST_CLASSES)


def test_a_data_set_without_classes_has_no_labels_and_no_class_names(idx_folder, tmp_path):
    path = tmp_path / "unlabelled.parquet"
    open_images(str(idx_folder), "test").remove_columns("label").to_parquet(path)
    data = EvaluationImages(str(path), "test", 32, "pad")
    assert data.label_names is None and data.read(range(2))[1] is None
    with pytest.raises(ValueError, match="no column 'label'; its columns are image"):
        class_names(open_images(str(path), "test"))


def test_a_missing_source_or_split_is_named(idx_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_images(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no split 'validation'.*train, test"):
        open_images(str(idx_folder), "validation")
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte.gz is missing"):
        open_images(str(idx_folder), "test")


def damage_by_cutting_the_archive(path, pictures):
    path.write_bytes(path.read_bytes()[:-200])


def damage_by_cutting_the_pixels(path, pictures):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def damage_by_cutting_the_header(path, pictures):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:9]))


def damage_by_swapping_the_file(path, pictures):
    write_idx(path, np.zeros(5))


def damage_by_dropping_a_picture(path, pictures):
    write_idx(path, pictures[:4])


def damage_by_unpacking(path, pictures):
    path.write_bytes(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_by_cutting_the_archive, "truncated or not a gzip file"),
        (damage_by_cutting_the_pixels, "its header promises 3936"),
        (damage_by_cutting_the_header, "ends within its header"),
        (damage_by_swapping_the_file, "magic number 0x00000801; expected 0x00000803"),
        (damage_by_dropping_a_picture, "4 images but 5 labels"),
        (damage_by_unpacking, "not a gzip file"),
    ],
)
def test_a_damaged_idx_file_is_named(idx_folder, pictures, damage, message):
    damage(idx_folder / "t10k-images-idx3-ubyte.gz", pictures)
    with pytest.raises(ValueError, match=message):
        open_images(str(idx_folder), "test")


def test_images_that_cannot_be_padded_are_refused(idx_folder):
    with pytest.raises(ValueError, match="28 x 28 pixels does not fit into 24 x 24"):
        EvaluationImages(str(idx_folder), "test", 24, "pad").read(range(2))
    with pytest.raises(ValueError, match="crop is 'stretch'"):
        EvaluationImages(str(idx_folder), "test", 24, "stretch")


def test_a_picture_whose_name_holds_a_split_is_one_picture_of_many(tmp_path):
    for name in ("cat/steam-train.png", "dog/0.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    dataset = open_images(str(tmp_path), "train")
    assert len(dataset) == 3 and class_names(dataset) == ["cat", "dog"]
