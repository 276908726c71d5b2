"""Cards of data sets: their Python runs, and a person's text stays while files and columns are brought up to date."""

import json
import os
import re

import datasets
import pytest
import torch
from PIL import Image

from tiny_pipeline import tiny_tokenizer
from titok_hf.checkpoints.cards import is_edited, is_generated, readdressed
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.prepare import PrepareSettings, prepare
from titok_hf.data.pretokenize import pretokenize


def python_of(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.fixture
def images():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in range(4)]
    return datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1]}, features=features)


def test_the_python_of_the_cards_runs_in_the_folder_of_the_data_set(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer().save_pretrained("tokenizer")
    prepare(images, "made/images", PrepareSettings(image_size=32), workers=0)
    pretokenize("made/images", "made/codes", ImageEncoder("tokenizer"), workers=0)
    found = {}
    for name in ("images", "codes"):
        card = (tmp_path / "made" / name / "README.md").read_text()
        assert is_generated(card) and str(tmp_path) not in card
        assert f'load_dataset("user/{name}")' in readdressed(card, f"user/{name}")
        with monkeypatch.context() as inside:
            inside.chdir(tmp_path / "made" / name)
            exec(python_of(card), found)
    assert found["image"].size == (32, 32)
    assert found["codes"].shape == (4, 8) and found["codes"].dtype == torch.int64


def test_nothing_that_is_published_says_where_the_source_lies(tmp_path):
    source = tmp_path / "photos of me"
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(source / name)
    (source / "a" / "0.png").write_bytes(b"no image")
    os.mkfifo(source / "b" / "pipe.png")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    prepare(source, tmp_path / "images", PrepareSettings(image_size=32), workers=0)
    pretokenize(source, tmp_path / "codes", ImageEncoder(str(tmp_path / "tokenizer")), workers=0)
    for name in ("images", "codes"):
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file() and ".titok_hf" not in path.parts]
        assert len(files) == 3 and not [path for path in files if str(tmp_path).encode() in path.read_bytes()]
        report = json.loads((tmp_path / name / "report-train.json").read_text())
        assert [remark["file"] for remark in report["skipped"]] == ["a/0.png", "b/pipe.png"]


@pytest.mark.parametrize("head", ["kept", "none", "broken"])
def test_an_edited_card_keeps_its_text_and_lists_a_further_split(images, tmp_path, head):
    card = tmp_path / "README.md"
    prepare(images, tmp_path, PrepareSettings(image_size=8), workers=0)
    text = card.read_text() + "\nPhotographed by me.\n"
    if head != "kept":
        text = text.split("---\n", 2)[2]
    if head == "broken":
        text = "---\nlicense: [cc\n---\n" + text
    card.write_text(text.replace("---\n", "---\nlicense: cc-by-4.0\n", 1) if head == "kept" else text)
    prepare(images.select(range(2)), tmp_path, PrepareSettings(image_size=8), split="test", workers=0)
    after = card.read_text()
    assert "Photographed by me." in after and "not made" not in after and is_edited(card)
    assert ("license: cc-by-4.0" in after) == (head == "kept")
    if head != "broken":  # `datasets` refuses such a card, and the person sees why
        sizes = {name: len(rows) for name, rows in datasets.load_dataset(str(tmp_path)).items()}
        assert sizes == {"train": 4, "test": 2}
    prepare(images.select(range(2)), tmp_path, PrepareSettings(image_size=8), split="test", workers=0)
    assert card.read_text() == after  # the same command once more changes nothing
