"""titok_hf.data.opening: every way in which a source may lie, what is read of it, and what is said of the rest."""

import os
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from titok_hf.data.decoding import Decoding, UnusableImage
from titok_hf.data.opening import open_source
from titok_hf.data.records import decode_record
from titok_hf.data.sources import Source


def png(value=0):
    stream = BytesIO()
    PILImage.new("RGB", (4, 4), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write(folder, *names, content=None):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png() if content is None else content)


def rows(opened, folder=None, **arguments):
    """File -> name or number of its class."""
    source = Source(opened.dataset, **arguments)
    names = source.label_names
    found = {}
    for record in source.read(0, 10**6):
        path = os.path.relpath(record.path, folder) if folder and os.path.isabs(record.path) else record.path
        found[path] = names[record.label] if names and record.label is not None else record.label
    return found


def unused(opened):
    return {entry.path for entry in opened.unused}


# Folders of images: files that are there, the split that is asked for; classes of the images, what is listed

FOLDERS = {
    "classes": (["cat/0.png", "dog/1.JPG"], "train", {"cat/0.png": "cat", "dog/1.JPG": "dog"}, set()),
    "one class": (["cat/0.png", "cat/1.png"], "train", {"cat/0.png": "cat", "cat/1.png": "cat"}, set()),
    "flat": (["0.png", "1.png"], "train", {"0.png": None, "1.png": None}, set()),
    "a class called train": (
        ["bus/0.png", "train/1.png", "car/2.png"],
        "train",
        {"bus/0.png": "bus", "train/1.png": "train", "car/2.png": "car"},
        set(),
    ),
    "bullet_train beside a README and a tar": (
        ["bullet_train/0.png", "bus/1.png", "car/2.png", "README.md", "old.tar"],
        "train",
        {"bullet_train/0.png": "bullet_train", "bus/1.png": "bus", "car/2.png": "car"},
        {"*.md", "*.tar"},
    ),
    "an image above the classes": (
        ["cat/0.png", "dog/1.png", "logo.png"],
        "train",
        {"cat/0.png": "cat", "dog/1.png": "dog"},
        {"logo.png"},
    ),
    "splits": (
        ["train/cat/0.png", "train/dog/1.png", "test/dog/2.png", "val/cat/3.png"],
        "test",
        {"test/dog/2.png": "dog"},
        {"train", "val"},
    ),
    "splits in a folder": (
        ["data/images/Training/cat/0.png", "data/images/Testing/cat/1.png"],
        "train",
        {"data/images/Training/cat/0.png": "cat"},
        {"data/images/Testing"},
    ),
    "splits with years": (["train2017/0.png", "val2017/1.png"], "validation", {"val2017/1.png": None}, {"train2017"}),
    "a split without classes": (["train/cat/0.png", "test/1.png"], "test", {"test/1.png": None}, {"train"}),
    "a split of any name": (["holdout/cat/0.png"], "holdout", {"holdout/cat/0.png": "cat"}, set()),
    "images beside splits": (
        ["train/a/0.png", "test/a/1.png", "x.png"],
        "train",
        {"train/a/0.png": "a"},
        {"test", "x.png"},
    ),
    "deep classes": (["x/cat/0.png", "y/dog/1.png"], "train", {"x/cat/0.png": "cat", "y/dog/1.png": "dog"}, set()),
    "unequal depth": (["cat/0.png", "dog/old/1.png"], "train", {"cat/0.png": None, "dog/old/1.png": None}, set()),
    "hidden and other files": (
        ["cat/0.png", "cat/._0.png", ".hid/1.png", "__MACOSX/cat/0.png", "cat/.DS_Store", "a.txt", "empty/b.csv"],
        "train",
        {"cat/0.png": "cat"},
        {"cat/._0.png", ".hid", "__MACOSX", "*.txt", "*.csv", "empty"},
    ),
    "odd names": (
        ["a [b]*?/0 0.png", "ünï/1#%.png", "日本/2.webp"],
        "train",
        {"a [b]*?/0 0.png": "a [b]*?", "ünï/1#%.png": "ünï", "日本/2.webp": "日本"},
        set(),
    ),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_images(name, streaming, tmp_path):
    files, split, classes, listed = FOLDERS[name]
    folder = tmp_path / "source [x]"
    write(folder, *files)
    opened = open_source(str(folder), split, streaming=streaming)
    assert rows(opened, folder) == classes
    assert unused(opened) == listed
    assert (opened.no_labels is None) == (None not in classes.values())


def test_without_labels_every_image_is_used(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png", "logo.png")
    opened = open_source(str(tmp_path), "train", labels="none")
    assert set(rows(opened, tmp_path, label_column="none")) == {"cat/0.png", "dog/1.png", "logo.png"}


def test_classes_have_the_same_numbers_in_all_splits(tmp_path):
    write(tmp_path, "train/ant/0.png", "train/bee/1.png", "test/bee/2.png", "test/cow/3.png")
    for split in ("train", "test"):
        dataset = open_source(str(tmp_path), split).dataset
        assert dataset.features["label"].names == ["ant", "bee", "cow"]
    assert dataset["label"][:] == [1, 2]


REFUSED = {
    "no images": (["a.txt"], r"holds no images\. \*\.txt: 1 files of the suffix .txt"),
    "nothing": ([], "holds no images. It is empty"),
    "splits beside classes": (["train/cat/0.png", "extra/cat/1.png"], r"splits \(train\) lie beside others \(extra\)"),
    "no such split": (["test/cat/0.png"], "no split 'train'; its splits are: test"),
    "images and Parquet": (["cat/0.png", "data/0.parquet"], "holds both images"),
    "images beside tar files": (["0.png", "a.tar"], "holds both images"),
    "Parquet and tar files": (["a.parquet", "b.tar"], "holds Parquet .* and tar files"),
    "named and unnamed files": (["train-0.parquet", "more.parquet"], "others are not"),
    "broken Parquet": (["a.parquet"], "a.parquet is not a Parquet file that can be read"),
    "a zip file": (["a.zip"], "but a.zip. Unpack that first"),
    "broken save_to_disk": (["dataset_dict.json"], "codec can't decode|Expecting"),
    "tar files that are none": (["a.tar", "b.tar"], "no images are in 2 tar files. a.tar: .*it is no tar file"),
    "metadata without images": (["0.png", "metadata.csv"], "metadata.csv cannot be used as metadata of images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_make_no_sense_are_refused_in_one_sentence(name, tmp_path):
    files, message = REFUSED[name]
    (tmp_path / "source").mkdir()
    write(tmp_path / "source", *files)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(str(tmp_path / "source"), "train")
    assert "source" in str(caught.value)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """As root reads everything, the system's answer is the only thing that is made up here."""
    write(tmp_path, "cat/0.png", "dog/1.png")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(OSError, match=r"dog cannot be read \(Permission denied\), so its images would be missing"):
        open_source(str(tmp_path), "train")


def test_links_are_followed_once_and_never_in_a_circle(tmp_path):
    write(tmp_path / "all", "ant/0.png", "bee/1.png")
    subset = tmp_path / "subset"
    subset.mkdir()
    (subset / "ant").symlink_to(tmp_path / "all" / "ant")
    (subset / "wasp").symlink_to(tmp_path / "all" / "bee")
    (subset / "again").symlink_to(tmp_path / "all" / "bee")
    (subset / "up").symlink_to(tmp_path)
    (tmp_path / "all" / "bee" / "round").symlink_to(tmp_path / "all" / "bee")
    opened = open_source(str(subset), "train")
    assert rows(opened, subset) == {"again/1.png": "again", "ant/0.png": "ant"}
    assert unused(opened) == {"up", "wasp", "again/round"}


def test_what_is_no_file_is_listed_and_never_waited_for(tmp_path):
    write(tmp_path, "cat/0.png")
    os.mkfifo(tmp_path / "cat" / "1.png")
    for name in ("README.md", "metadata.csv"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "cat" / "2.png").symlink_to("nowhere")
    (tmp_path / "cat" / "3.png").symlink_to("3.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/4\xff.png")).write_bytes(png())
    source = Source(open_source(str(tmp_path), "train").dataset)
    reasons = []
    for record in source.read(0, 9):
        try:
            decode_record(record, Decoding())
        except UnusableImage as error:
            reasons.append(str(error))
    for reason, word in zip(
        reasons, ["not a regular file", "No such file", "symbolic links", "not UTF-8"], strict=True
    ):
        assert word in reason
    for name in ("a.parquet", "a.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises((ValueError, OSError), match="not a regular file"):
            open_source(str(tmp_path / name), "train")


def test_metadata_name_the_images_and_the_others_are_listed(tmp_path):
    write(tmp_path, "train/0.png", "train/1.png", "train/2.png", "test/3.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\n0.png,cat\n1.png,dog\n")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n3.png,elk\n")
    for streaming in (False, True):
        opened = open_source(str(tmp_path), "train", streaming=streaming)
        assert rows(opened, tmp_path) == {"train/0.png": "cat", "train/1.png": "dog"}
        assert unused(opened) == {"train/2.png", "test"}
    assert opened.dataset.features["label"].names == ["cat", "dog", "elk"]


# Parquet files and what else `datasets` writes


def parquet(path, labels, feature=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [{"bytes": png(), "path": f"{n}.png"} for n in range(len(labels))], "label": labels}
    Dataset.from_dict(columns, Features({"image": Image(), "label": feature or Value("string")})).to_parquet(path)


def test_empty_parquet_files_are_passed_over_and_other_columns_refused(tmp_path):
    parquet(tmp_path / "0.parquet", [])
    with pytest.raises(ValueError, match="0.parquet has no rows"):
        open_source(str(tmp_path), "train")
    parquet(tmp_path / "1.parquet", ["ant"])
    assert rows(open_source(str(tmp_path), "train")) == {"0.png": "ant"}
    pq.write_table(pa.table({"x": [1]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2.parquet has other columns \(x\) than .*1.parquet \(image, label\)"):
        open_source(str(tmp_path), "train")


def test_a_source_index_that_is_no_number_is_no_index(tmp_path):
    columns = {"image": [{"bytes": png(), "path": "a.png"}], "source_index": ["first"]}
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    (record,) = Source(open_source(str(tmp_path), "train").dataset).read(0, 9)
    assert record.source_index == 0


@pytest.mark.parametrize("metadata", ["file_name,label\n", "file_name\n../x.png\n", "name\n0.png\n", ""])
def test_metadata_that_make_no_sense_are_refused_in_one_sentence(metadata, tmp_path):
    write(tmp_path, "0.png")
    (tmp_path / "metadata.csv").write_text(metadata)
    with pytest.raises(ValueError, match="metadata.csv cannot be used as metadata of images"):
        open_source(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("train", "test"),
    [("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), ("train/0.parquet", "test/0.parquet")],
)
def test_texts_and_classes_of_parquet_files_have_the_same_numbers_in_all_splits(train, test, tmp_path):
    parquet(tmp_path / "texts" / train, ["ant", "bee", None])
    parquet(tmp_path / "texts" / test, ["bee", "cow"])
    parquet(tmp_path / "classes" / train, [0, 1, None], ClassLabel(names=["ant", "bee"]))
    parquet(tmp_path / "classes" / test, [0, 1], ClassLabel(names=["bee", "cow"]))
    for kind in ("texts", "classes"):
        opened = open_source(str(tmp_path / kind), "train")
        assert opened.dataset["label"][:] == [0, 1, None] and unused(opened) == {test}
        dataset = open_source(str(tmp_path / kind), "test").dataset
        assert dataset["label"][:] == [1, 2] and dataset.features["label"].names == ["ant", "bee", "cow"]


def test_files_that_number_their_classes_differently_are_refused(tmp_path):
    parquet(tmp_path / "0.parquet", [0], ClassLabel(names=["ant", "bee"]))
    parquet(tmp_path / "1.parquet", [0], ClassLabel(names=["bee"]))
    with pytest.raises(ValueError, match="1.parquet numbers the classes of 'label' in another way"):
        open_source(str(tmp_path), "train")


def test_whole_floats_are_numbers_where_pandas_misses_a_label(tmp_path):
    image = {"bytes": png(), "path": "a.png"}
    pd.DataFrame({"image": [image] * 3, "label": [2, None, 0]}).to_parquet(tmp_path / "a.parquet")
    dataset = open_source(str(tmp_path / "a.parquet"), "train").dataset
    assert dataset["label"][:] == [2, None, 0] and dataset.features["label"] == Value("int64")
    assert isinstance(dataset.features["image"], Image)


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.struct({"bytes": pa.binary()}),
        pa.struct({"path": pa.string(), "bytes": pa.large_binary()}),
    ],
)
def test_columns_of_bytes_are_images(kind, tmp_path):
    is_struct = pa.types.is_struct(kind)
    values = [{"bytes": png(), "path": "a.png"} if is_struct else png()]
    if is_struct and kind.num_fields == 1:
        values = [{"bytes": png()}]
    pq.write_table(pa.table({"picture": pa.array(values, kind), "n": [1]}), tmp_path / "a.parquet")
    for streaming in (False, True):
        opened = open_source(str(tmp_path), "train", streaming=streaming)
        (record,) = Source(opened.dataset).read(0, 9)
        assert record.read() == png()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1]}, "no column 'image' of images. .*all columns: a. Images are files"),
        ({"x": [png()], "y": [png()]}, "x, y"),
    ],
)
def test_parquet_without_one_column_of_images_is_refused(columns, message, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        Source(open_source(str(tmp_path), "train").dataset)


def test_folders_of_save_to_disk_are_read(tmp_path):
    dataset = Dataset.from_dict({"image": [{"bytes": png(), "path": "a.png"}], "label": ["x"]})
    dataset = dataset.cast_column("image", Image())
    dataset.save_to_disk(tmp_path / "one")
    other = Dataset.from_dict({"image": [], "label": []}, dataset.features)
    DatasetDict({"train": dataset, "test": other}).save_to_disk(tmp_path / "several")
    for name in ("one", "several"):
        assert rows(open_source(str(tmp_path / name), "train")) == {"a.png": "x"}
    with pytest.raises(ValueError, match="no split 'dev'; its splits are: train, test. Choose one of them"):
        open_source(str(tmp_path / "several"), "dev")


def test_a_name_that_may_be_a_mistyped_folder_says_so_when_the_hub_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectionError, match="no folder or file 'nodata' here, and the Hub cannot be reached"):
        open_source("nodata", "train")


@pytest.mark.parametrize("source", ["nowhere/", "no/such/folder", "a*.png", "x.tar", "./x", "a b"])
def test_paths_where_nothing_lies(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_source(source, "train")


def test_other_files_are_no_source(tmp_path):
    write(tmp_path, "a.png", "b.zip")
    for name in ("a.png", "b.zip"):
        with pytest.raises(ValueError, match=f"{name} is not a data source"):
            open_source(str(tmp_path / name), "train")


# The digest of what lies there


def test_the_digest_follows_the_files_and_not_the_path(tmp_path, monkeypatch):
    for name in ("first", "second"):
        write(tmp_path / name, "cat/0.png", "dog/1.png")
    monkeypatch.chdir(tmp_path)
    known = open_source("first", "train").digest
    for same in ("first/", "./first", "second", str(tmp_path / "first")):
        assert open_source(same, "train").digest == known
    write(tmp_path / "first", "notes.txt")
    assert open_source("first", "train", streaming=True).digest == known
    changes = [
        lambda: write(tmp_path / "first", "dog/2.png"),
        lambda: (tmp_path / "first/dog/2.png").rename(tmp_path / "first/dog/3.png"),
        lambda: (tmp_path / "first/dog/3.png").write_bytes(png() + b"more"),
        lambda: (tmp_path / "first/dog/1.png").unlink(),
    ]
    seen = {known}
    for change in changes:
        change()
        seen.add(open_source("first", "train").digest)
    assert len(seen) == 5
