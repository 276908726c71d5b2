"""titok_hf.data.image_folders: the same rows as `datasets` finds, in the same order."""

import pytest
from datasets import load_dataset

from image_sources import image_folder, picture
from titok_hf.data.folder_listing import FolderListing
from titok_hf.data.image_folders import read_image_folder
from titok_hf.data.sources import Source, open_dataset


def rows(dataset):
    return [(record.path, record.label) for record in Source(dataset).read(0, 10**6)]


@pytest.mark.parametrize("kind", ["classes", "flat", "uneven", "one-class"])
def test_rows_are_those_of_datasets(kind, tmp_path):
    folder = image_folder(tmp_path / "images", 12)
    extra = {"classes": "coat/Z.PNG", "flat": "bag/a b.webp", "uneven": "coat/deep/1.png", "one-class": "bag/x.png"}
    (folder / extra[kind]).parent.mkdir(exist_ok=True)
    picture(40).save(folder / extra[kind])
    for hidden in (".hidden/1.png", "__pycache__/1.png", "bag/.1.png"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        picture(41).save(folder / hidden)
    (folder / "bag" / "notes.txt").write_text("no image")
    if kind in ("flat", "one-class"):
        folder = folder / "bag"
    expected = load_dataset("imagefolder", data_files={"train": f"{folder}/**"}, split="train")
    dataset = read_image_folder(FolderListing.of(folder), "train").dataset()
    assert dataset.features == expected.features
    assert rows(dataset) == rows(expected) and len(dataset) in (5, 13)
    assert ("label" in dataset.features) == (kind == "classes")
    assert dataset[0]["image"].size == expected[0]["image"].size
    stream = open_dataset(str(folder), "train", streaming=True)
    assert rows(stream) == rows(expected)


def test_metadata_are_left_to_datasets(tmp_path):
    folder = image_folder(tmp_path / "images", 2)
    (folder / "metadata.csv").write_text("file_name,kind\nbag/0000.png,a\ncoat/0001.png,b\n")
    assert "kind" in open_dataset(str(folder), "train").features
