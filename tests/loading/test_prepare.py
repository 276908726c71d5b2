"""titok_hf.data.prepare: what is written, that it is always the same, and what happens when something goes wrong."""

import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as PILImage

from hub_server import hub_server
from image_sources import CLASSES, content, encoded, image_folder, picture
from titok_hf import image_transforms as transforms
from titok_hf.data.prepare import PrepareSettings, prepare
from titok_hf.data.shards import STATE_FOLDER, Part

SETTINGS = PrepareSettings(image_size=32, image_format="png", shard_size=8)
BROKEN = (3, 10)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"), 22, BROKEN)


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    """The data set that an uninterrupted run in one process makes."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(source, folder, SETTINGS, workers=0)
    return folder


def labelled(labels, feature=None):
    """A data set of three classes with any labels."""
    rows = {"image": [encoded(number) for number in range(len(labels))], "label": labels}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": feature or Value("int64")}))


def with_names(labels):
    """Labels that no library checked, as they lie in files."""
    dataset = labelled(labels)
    dataset.info.features["label"] = ClassLabel(names=list(CLASSES))
    return dataset


def test_load_dataset_opens_it_as_it_is(prepared):
    dataset = load_dataset(str(prepared), split="train")
    assert dataset.features["label"].names == list(CLASSES)
    assert dataset["source_index"][:] == [number for number in range(22) if number not in BROKEN]
    for row in dataset:
        number = row["source_index"]
        expected = transforms.center_crop(picture(number), 32)
        assert np.array_equal(row["image"], expected)
        assert row["label"] == number * 3 // 22
    assert dataset.cast_column("image", Image(decode=False))[5]["image"]["path"] == "0006.png"


def test_streaming_reads_the_same_rows(prepared):
    rows = load_dataset(str(prepared), split="train", streaming=True)
    assert [row["source_index"] for row in rows][:4] == [0, 1, 2, 4]


def test_the_report_lists_what_was_left_out(prepared):
    report = json.loads((prepared / "report-train.json").read_text())
    assert (report["num_images"], report["num_rows"], report["num_skipped"]) == (22, 20, 2)
    assert [remark["source_index"] for remark in report["skipped"]] == list(BROKEN)
    assert report["skipped"][0]["file"] == "bag/0003.png"
    assert report["skipped"][0]["reason"] == "it is no image that Pillow can read"
    assert "| train | 22 | 2 | 20 |" in (prepared / "README.md").read_text()


def test_workers_parts_and_the_way_of_reading_do_not_matter(source, prepared, tmp_path, monkeypatch):
    prepare(source, tmp_path / "workers", SETTINGS, workers=2)
    assert content(tmp_path / "workers") == content(prepared)
    for index in (2, 0, 1):
        report = prepare(source, tmp_path / "parts", SETTINGS, workers=0, part=Part(index, 3))
        assert (report.num_images == 22) == (index == 1)
    assert content(tmp_path / "parts") == content(prepared)
    with monkeypatch.context() as launcher:
        launcher.setenv("WORLD_SIZE", "2")
        for rank in ("1", "0"):
            launcher.setenv("RANK", rank)
            prepare(source, tmp_path / "launched", SETTINGS, workers=0)
    assert content(tmp_path / "launched") == content(prepared)
    prepare(source, tmp_path / "stream", SETTINGS, workers=0, streaming=True)
    data = [path for path in content(prepared) if path.startswith(("data", "report"))]
    assert len(data) == 4
    assert {path: content(tmp_path / "stream")[path] for path in data} == {p: content(prepared)[p] for p in data}


def test_a_stream_in_parts_whose_end_is_the_end_of_a_shard(source, tmp_path):
    for index in (1, 0):
        prepare(source, tmp_path, SETTINGS, workers=0, streaming=True, limit=16, part=Part(index, 2))
    assert json.loads((tmp_path / "report-train.json").read_text())["num_images"] == 16
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "train-00000.parquet",
        "train-00001.parquet",
    ]


def test_whole_shards_are_kept_and_damaged_ones_made_again(source, prepared, tmp_path):
    prepare(source, tmp_path, SETTINGS, workers=0)
    shards = sorted((tmp_path / "data").iterdir())
    damaged = bytearray(shards[1].read_bytes())
    damaged[100] ^= 1
    shards[1].write_bytes(damaged)
    (shards[0].parent / ".unfinished-1-train-00001.parquet").write_bytes(b"left by a kill")
    kept = [shard.stat().st_ino for shard in shards]
    prepare(source, tmp_path, SETTINGS, workers=0)
    assert content(tmp_path) == content(prepared)
    assert [shard.stat().st_ino == inode for shard, inode in zip(shards, kept, strict=True)] == [True, False, True]


def test_other_settings_are_refused_and_other_splits_are_not(source, tmp_path):
    prepare(source, tmp_path, SETTINGS, workers=0, limit=4)
    before = content(tmp_path)
    dataset = load_dataset("imagefolder", data_dir=str(source), split="train")
    with pytest.raises(ValueError, match=r"image_size: 32 there, 16 now"):
        prepare(source, tmp_path, PrepareSettings(image_size=16, image_format="png", shard_size=8), workers=0, limit=4)
    with pytest.raises(ValueError, match="limit: 4 there, 5 now"):
        prepare(source, tmp_path, SETTINGS, workers=0, limit=5)
    with pytest.raises(ValueError, match="crop: 'center' there"):
        prepare(dataset, tmp_path, PrepareSettings(32, "adm", "png", shard_size=8), "validation", workers=0)
    assert content(tmp_path) == before
    prepare(dataset, tmp_path, SETTINGS, split="validation", workers=0)
    splits = load_dataset(str(tmp_path))
    assert (len(splits["train"]), len(splits["validation"])) == (3, 20)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_source_that_changed_is_refused_however_it_is_written(streaming, tmp_path, monkeypatch):
    source = image_folder(tmp_path / "source", 20)
    monkeypatch.chdir(tmp_path)

    def killed(num_images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("source", "out", SETTINGS, workers=0, streaming=streaming, progress=killed)
    for change, undo in (("0000.png", "0000 b.png"), ("0003.png", "../x/0003.png")):
        (source / "bag" / undo).parent.mkdir(exist_ok=True)
        (source / "bag" / change).rename(source / "bag" / undo)
        with pytest.raises(ValueError, match="The source of out has changed since"):
            prepare("source", "out", SETTINGS, workers=0, streaming=streaming)
        (source / "bag" / undo).rename(source / "bag" / change)
    source.rename(tmp_path / "moved")
    prepare("moved/", "out", SETTINGS, workers=0, streaming=streaming)
    assert load_dataset("out", split="train")["source_index"][:] == list(range(20))


def test_what_was_not_used_and_why_there_are_no_labels_is_reported(tmp_path):
    source = image_folder(tmp_path / "source", 6)
    (source / "coat" / "old").mkdir()
    picture(9).save(source / "coat" / "old" / "9.png")
    (source / "notes.txt").write_text("no image")
    (source / "bag" / "0000.png").write_text("no image")
    (source / "bag" / "0002.png").symlink_to("nowhere.png")
    prepare(source, tmp_path / "out", SETTINGS, workers=0)
    report = json.loads((tmp_path / "out" / "report-train.json").read_text())
    assert report["no_labels"].startswith("the images do not lie equally deep in folders of classes (bag/0000.png")
    assert (report["num_unused"], report["unused"][0]["path"]) == (1, "*.txt")
    assert report["settings"]["source"] == "source"
    published = content(tmp_path / "out").items()
    assert not [name for name, data in published if STATE_FOLDER not in name and str(tmp_path).encode() in data]


def test_a_flat_folder_is_one_class_of_its_name(tmp_path):
    source = image_folder(tmp_path / "images", 3) / "bag"
    prepare(source, tmp_path / "out", SETTINGS, workers=0)
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset.features["label"].names == ["bag"] and dataset["label"][:] == [0]
    prepare(source, tmp_path / "none", SETTINGS, workers=0, label_column="none")
    assert "label" not in load_dataset(str(tmp_path / "none"), split="train").features


def test_transparent_images_are_laid_on_the_background_and_counted(tmp_path):
    stream = BytesIO()
    PILImage.new("RGBA", (40, 40), (200, 0, 0, 0)).save(stream, "PNG")
    dataset = Dataset.from_dict({"image": [{"bytes": stream.getvalue(), "path": "a.png"}, encoded(0)]})
    dataset = dataset.cast_column("image", Image())
    for settings, colour, count in (
        (SETTINGS, (255, 255, 255), 1),
        (replace(SETTINGS, background="#00ff00"), (0, 255, 0), 1),
        (replace(SETTINGS, unusual_modes="published"), (200, 0, 0), 0),
    ):
        folder = tmp_path / str(colour)
        assert prepare(dataset, folder, settings, workers=0).num_transparent == count
        assert json.loads((folder / "report-train.json").read_text())["num_transparent"] == count
        assert load_dataset(str(folder), split="train")[0]["image"].getpixel((0, 0)) == colour


def test_an_image_that_no_encoder_takes_is_left_out(tmp_path):
    stream = BytesIO()
    PILImage.new("RGB", (40, 4000)).save(stream, "PNG")
    dataset = Dataset.from_dict({"image": [{"bytes": stream.getvalue(), "path": "a.png"}, encoded(0)]})
    settings = PrepareSettings(image_size=512, crop="none", image_format="webp")  # WebP ends at 16,383 pixels
    report = prepare(dataset.cast_column("image", Image()), tmp_path, settings, workers=0)
    assert report.num_rows == 1 and "it cannot be prepared" in report.skipped[0].reason


def test_whole_floats_are_labels_and_others_are_not(tmp_path):
    report = prepare(labelled([2.0, None, 1.5, float("nan")], Value("float64")), tmp_path, SETTINGS, workers=0)
    assert load_dataset(str(tmp_path), split="train")["label"][:] == [2]
    reasons = [remark.reason for remark in report.skipped]
    assert reasons == ["it has no label", "the label is 1.5, which is not a whole number", "it has no label"]


def test_a_folder_in_use_is_refused(source, tmp_path):
    def second_run(num_images):
        with pytest.raises(OSError, match="Another run is making the split 'train'"):
            prepare(source, tmp_path, SETTINGS, workers=0)

    prepare(source, tmp_path, SETTINGS, workers=0, progress=second_run)
    assert not list(tmp_path.rglob("lock-*"))


def test_files_of_somebody_else_are_refused(source, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(b"precious")
    with pytest.raises(ValueError, match="has no record of"):
        prepare(source, tmp_path, SETTINGS, workers=0)
    assert (tmp_path / "data" / "train-00000.parquet").read_bytes() == b"precious"


def test_stop_names_the_first_unusable_image_and_skip_goes_on_from_there(source, prepared, tmp_path):
    with pytest.raises(ValueError, match=r"image 3 \(.*0003.png\): it is no image"):
        prepare(source, tmp_path, SETTINGS, workers=0, on_error="stop")
    assert not list((tmp_path / "data").iterdir())
    prepare(source, tmp_path, SETTINGS, workers=0)
    assert content(tmp_path) == content(prepared)


def test_wrong_labels_are_left_out(tmp_path):
    report = prepare(with_names([0, 3, 2, -1, None]), tmp_path, SETTINGS, workers=0)
    assert report.num_rows == 2
    assert [str(remark) for remark in report.skipped] == [
        "image 1 (0001.png): the label is 3, which is not in [0, 3)",
        "image 3 (0003.png): the label is -1, which is not in [0, 3)",
        "image 4 (0004.png): it has no label",
    ]


def test_labels_may_be_texts_numbers_or_none(tmp_path):
    prepare(labelled(["shirt", "bag", "shirt"], Value("string")), tmp_path / "texts", SETTINGS, workers=0)
    dataset = load_dataset(str(tmp_path / "texts"), split="train")
    assert dataset.features["label"].names == ["bag", "shirt"] and dataset["label"][:] == [1, 0, 1]
    prepare(labelled([7, 5]), tmp_path / "numbers", SETTINGS, workers=0)
    assert load_dataset(str(tmp_path / "numbers"), split="train")["label"][:] == [7, 5]
    prepare(labelled([7, 5]), tmp_path / "none", SETTINGS, workers=0, label_column="none")
    assert load_dataset(str(tmp_path / "none"), split="train").column_names == ["image", "source_index"]
    with pytest.raises(ValueError, match="a stream does not tell all of them"):
        stream = labelled(["bag"], Value("string")).to_iterable_dataset()
        prepare(stream, tmp_path / "stream", SETTINGS, workers=0)


def tar_file(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_shards_are_a_source(streaming, tmp_path):
    members = []
    for number in range(3):
        members += [(f"{number:04d}.png", encoded(number)["bytes"]), (f"{number:04d}.cls", str(number).encode())]
    tar_file(tmp_path / "shard-0.tar", members)
    prepare(str(tmp_path / "shard-*.tar"), tmp_path / "out", SETTINGS, streaming=streaming, workers=0)
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset["label"][:] == [0, 1, 2]
    assert np.array_equal(dataset[2]["image"], transforms.center_crop(picture(2), 32))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("first", [0, 6])
@pytest.mark.parametrize("source", ["shards/train-0.tar", "shards"], ids=["file", "folder"])
def test_wrong_labels_in_webdataset_shards_are_left_out(source, first, streaming, tmp_path):
    """Among the examples from which the columns are inferred, and after them. A repository opens like a folder."""
    labels: dict[int, bytes | None] = dict.fromkeys(range(12), b"1")
    labels |= {first: b"cat", first + 1: None, first + 2: b"", first + 3: b"2.5", first + 4: b"\xff"}
    members = []
    for number, label in labels.items():
        members.append((f"{number:04d}.png", encoded(number)["bytes"]))
        members += [] if label is None else [(f"{number:04d}.cls", label)]
    (tmp_path / "shards").mkdir()
    tar_file(tmp_path / "shards" / "train-0.tar", [*members, ("9999.json", b"{broken"), ("9999.cls", b"1")])
    report = prepare(str(tmp_path / source), tmp_path / "out", SETTINGS, streaming=streaming, workers=0)
    assert (report.num_images, report.num_rows) == (13, 7)
    reasons = ["'cat', which is not a number", "no label", "'', which", "'2.5', which", "'\ufffd', which", "empty"]
    for remark, number, reason in zip(report.skipped, [*range(first, first + 5), 12], reasons, strict=True):
        assert remark.source_index == number and reason in remark.reason


def test_a_folder_of_images_is_all_of_its_files_or_one_folder_a_split(tmp_path):
    """`datasets` alone would take the one file that is called "train" for the split "train"."""
    source = image_folder(tmp_path / "plain", 6)
    picture(6).save(source / "bag" / "steam-train.png")
    assert prepare(source, tmp_path / "all", SETTINGS, workers=0).num_images == 7
    for split, count in (("train", 4), ("validation", 2)):
        image_folder(tmp_path / "splits" / split, count)
    for split, count in (("train", 4), ("validation", 2)):
        assert prepare(tmp_path / "splits", tmp_path / split, SETTINGS, split, workers=0).num_images == count
    with pytest.raises(ValueError, match="test"):
        prepare(tmp_path / "splits", tmp_path / "test", SETTINGS, "test", workers=0)


def test_parquet_files_and_prepared_folders_are_sources(prepared, tmp_path):
    prepare(str(prepared / "data" / "*.parquet"), tmp_path / "files", SETTINGS, workers=0)
    prepare(prepared, tmp_path / "folder", SETTINGS, workers=0)
    shards = [path for path in content(prepared) if path.startswith("data")]
    rows = [load_dataset(str(tmp_path / name), split="train") for name in ("files", "folder")]
    assert rows[0]["source_index"][:] == rows[1]["source_index"][:] == [n for n in range(22) if n not in BROKEN]
    assert len(shards) == 3


@pytest.mark.parametrize(
    ("settings", "shape", "image_format"),
    [
        (PrepareSettings(image_size=24, crop="none"), (26, 24), "JPEG"),
        (PrepareSettings(image_size=24, crop="adm", image_format="webp"), (24, 24), "WEBP"),
        (PrepareSettings(image_size=64, enlarge=False), (64, 64), "JPEG"),
        (PrepareSettings(image_size=16, fast_jpeg=True), (16, 16), "JPEG"),
    ],
)
def test_crops_and_formats(settings, shape, image_format, tmp_path):
    prepare(labelled([0]), tmp_path, settings, workers=0)
    image = load_dataset(str(tmp_path), split="train")[0]["image"]
    assert (image.height, image.width) == shape and image.format == image_format
    if not settings.enlarge:
        assert np.asarray(image)[:10].max() < 40  # black, as far as JPEG keeps it


def test_bad_arguments_are_named(source, tmp_path):
    for arguments, message in (
        ({"crop": "square"}, "crop is 'square'"),
        ({"quality": 0}, "quality is 0"),
        ({"unusual_modes": "keep"}, "unusual_modes is 'keep'"),
        ({"background": "sky"}, "background is 'sky'"),
        ({"image_size": 0}, "image_size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PrepareSettings(**arguments)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "out", workers=0)
    with pytest.raises(ValueError, match="no column 'photo' of images"):
        prepare(source, tmp_path / "out", workers=0, image_column="photo")
    with pytest.raises(ValueError, match="no column 'kind'"):
        prepare(source, tmp_path / "out", workers=0, label_column="kind")
    with pytest.raises(ValueError, match="use limit"):
        prepare(labelled([0]), tmp_path / "out", workers=0, split="train[:1]")
    with pytest.raises(ValueError, match="no images"):
        prepare(labelled([0]).select([]), tmp_path / "out", workers=0)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot be written"):
        prepare(source, tmp_path / "file" / "out", workers=0)


def test_a_full_disk_leaves_no_part_of_a_shard(source, prepared, tmp_path):
    """A limit on the size of files fails a write just like a full disk, at the same place."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
    try:
        with pytest.raises(OSError, match="[Ff]ile too large"):
            prepare(source, tmp_path, SETTINGS, workers=0, config_name=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "README.md").exists()
    prepare(source, tmp_path, SETTINGS, workers=0)
    assert content(tmp_path) == content(prepared)


PROGRAM = """
import sys
from titok_hf.data.prepare import PrepareSettings, prepare
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], PrepareSettings(image_size=32, image_format="png", shard_size=50), workers=2)
"""


@pytest.mark.slow
def test_kill_9_twice_gives_the_bytes_of_an_uninterrupted_run(tmp_path):
    source = image_folder(tmp_path / "source", 1500, broken=(40, 700))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(source)]
    subprocess.run([*command, str(tmp_path / "straight")], check=True, timeout=300)
    killed = tmp_path / "killed"
    for shards in (3, 12):
        process = subprocess.Popen([*command, str(killed)])
        deadline = time.monotonic() + 240
        while not (killed / f"data/train-{shards:05d}.parquet").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert len(list((killed / ".titok_hf/train").glob("0*.json"))) < 30
    subprocess.run([*command, str(killed)], check=True, timeout=300)
    assert content(killed) == content(tmp_path / "straight")
    assert len(load_dataset(str(killed), split="train")) == 1498


def test_unusual_modes_are_left_out_or_come_out_as_rgb(tmp_path):
    stream = BytesIO()
    picture(0).convert("CMYK").save(stream, "JPEG")
    rows = {"image": [{"bytes": stream.getvalue(), "path": None}]}
    dataset = Dataset.from_dict(rows, features=Features({"image": Image()}))
    report = prepare(dataset, tmp_path / "skip", SETTINGS, workers=0)
    assert [str(remark) for remark in report.skipped] == ["image 0: its mode is CMYK"] and report.num_rows == 0
    report = prepare(dataset, tmp_path, replace(SETTINGS, unusual_modes="published"), workers=0)
    assert [str(remark) for remark in report.converted] == ["image 0: CMYK converted to RGB"]
    image = load_dataset(str(tmp_path), split="train")[0]["image"]
    expected = transforms.center_crop(PILImage.open(stream).convert("RGB"), 32)
    assert np.array_equal(image, expected)


def test_a_data_set_is_pushed_without_the_records_of_its_making(prepared, tmp_path):
    code = (
        "import sys; from titok_hf.checkpoints.push import push_folder; push_folder(sys.argv[1], 'someone/pictures')"
    )
    hub = tmp_path / "hub"
    hub.mkdir()
    with hub_server(hub, "someone/pictures", kind="datasets") as (address, _):
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
        process = subprocess.run(
            [sys.executable, "-c", code, str(prepared)],
            env=environment | {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
    assert process.returncode == 0, process.stderr
    expected = [path for path in prepared.rglob("*") if path.is_file() and STATE_FOLDER not in path.parts]
    assert len(expected) > 2
    for path in expected:
        assert (hub / path.relative_to(prepared)).read_bytes() == path.read_bytes()
    assert len([path for path in hub.rglob("*") if path.is_file()]) == len(expected)
