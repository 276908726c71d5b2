"""titok_hf.data.tar_files: webdataset shards with every fault that writers, disks and people make."""

import os
import tarfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from titok_hf.data.opening import open_source
from titok_hf.data.sources import Source


def png():
    stream = BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def tar(path, members, mode="w"):
    """Members are names with contents, or whole headers."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if header.isreg():
                header.size = len(content)
            archive.addfile(header, BytesIO(content))
    return path


def read(source, streaming=False, **arguments):
    """(name, label, whether there are bytes, error) of each row."""
    records = Source(open_source(str(source), "train", streaming=streaming).dataset, **arguments).read(0, 10**6)
    return [(record.path, record.label, bool(record.content), record.error) for record in records]


def sample(name, label):
    return [(f"{name}.png", png()), (f"{name}.cls", str(label).encode())]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_compressed_or_not(suffix, streaming, tmp_path):
    path = tar(tmp_path / f"a.{suffix}", sample("0", 5) + sample("./b/1", 6), "w" if suffix == "tar" else "w:gz")
    for source in (path, tmp_path):
        assert read(source, streaming) == [("0.png", 5, True, None), ("./b/1.png", 6, True, None)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_file_names_itself_and_the_others_are_read(streaming, tmp_path):
    tar(tmp_path / "0.tar", [])
    (tmp_path / "1.tar").write_bytes(b"")
    (tmp_path / "2.tar").write_text("<html>not found</html>" * 100)
    tar(tmp_path / "3.tar", sample("3", 1))
    whole = tar(tmp_path / "4.tar", sample("4", 2) + sample("5", 3)).read_bytes()
    (tmp_path / "4.tar").write_bytes(whole[:-7000])
    os.mkfifo(tmp_path / "5.tar")
    opened = open_source(str(tmp_path), "train", streaming=streaming)
    assert [(entry.path, entry.reason) for entry in opened.unused] == [("5.tar", "not a regular file")]
    found = read(tmp_path, streaming)
    assert [row[:2] for row in found if row[2]] == [("3.png", 1), ("4.png", 2), ("5.png", None)]
    errors = {row[0]: row[3] for row in found if row[3]}
    assert "empty" in errors["1.tar"] and "no tar file" in errors["2.tar"] and "may be missing" in errors["4.tar"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_damaged_header_costs_its_own_member(streaming, tmp_path):
    path = tar(tmp_path / "a.tar", sample("0", 0) + sample("1", 1) + sample("2", 2))
    content = bytearray(path.read_bytes())
    place = content.index(b"1.png")
    content[place + 20 : place + 40] = b"\xff" * 20
    path.write_bytes(content)
    found = read(path, streaming)
    assert [row for row in found if row[2]] == [("0.png", 0, True, None), ("2.png", 2, True, None)]
    (error,) = [row[3] for row in found if row[0] == "a.tar"]
    assert f"damaged at byte {place:,}" in error


def test_suffixes_may_differ_if_each_sample_has_one_image(tmp_path):
    members = [
        ("0.png", png()),
        ("0.cls", b"0"),
        ("1.JPG", png()),
        ("1.CLS", b"1"),
        ("2.webp", png()),
        ("2.cls", b"2"),
    ]
    assert read(tar(tmp_path / "a.tar", members)) == [
        (f"{n}", i, True, None) for i, n in enumerate(["0.png", "1.JPG", "2.webp"])
    ]
    tar(tmp_path / "b.tar", [*members, ("3.png", png()), ("3.jpg", png())])
    with pytest.raises(ValueError, match="Its columns of images: png, jpg, webp; .*Name one"):
        read(tmp_path / "b.tar")
    found = read(tmp_path / "b.tar", image_column="png")
    assert [row[2] for row in found] == [True, False, False, True]


def test_labels_may_begin_late(tmp_path):
    members = [(f"{n}.png", png()) for n in range(200)] + sample("last", 7)
    assert read(tar(tmp_path / "a.tar", members))[-1] == ("last.png", 7, True, None)


def test_duplicates_links_pipes_and_odd_names_are_read_or_named(tmp_path):
    hard, soft, lost, pipe = (tarfile.TarInfo(name) for name in ("d/1.png", "d/2.png", "3.png", "4.png"))
    hard.type, hard.linkname = tarfile.LNKTYPE, "d/0.png"
    soft.type, soft.linkname = tarfile.SYMTYPE, "0.png"
    lost.type, lost.linkname = tarfile.SYMTYPE, "nowhere.png"
    pipe.type = tarfile.FIFOTYPE
    members = [("d/0.png", png()), (hard, b""), (soft, b""), (lost, b""), (pipe, b"")]
    members += [("5.png", png()), ("5.png", png()), ("._6.png", b"x"), ("__MACOSX/7.png", b"x"), ("README", b"x")]
    members += [(os.fsdecode(b"8\xff.png"), png())]
    found = read(tar(tmp_path / "a.tar", members))
    assert [row[0] for row in found] == [
        "d/0.png",
        "d/1.png",
        "d/2.png",
        "3.png",
        "4.png",
        "5.png",
        "5.png",
        "8\ufffd.png",
    ]
    assert [row[2] for row in found] == [True, True, True, False, False, True, True, True]
    assert "cannot be found" in found[3][3] and "no regular file" in found[4][3]


def test_names_with_many_dots_are_refused(tmp_path):
    members = [(f"photo.{n}.png", png()) for n in range(50)]
    with pytest.raises(ValueError, match="a name ends at its first dot"):
        read(tar(tmp_path / "a.tar", members))


@pytest.mark.parametrize("streaming", [False, True])
def test_damage_anywhere_never_stops_a_run(streaming, tmp_path):
    whole = tar(tmp_path / "whole.tar", sample("0", 0) + sample("1", 1) + sample("2", 2)).read_bytes()
    chance = np.random.default_rng(0)
    for number in range(30):
        content = bytearray(whole)
        for place in chance.integers(0, len(whole) - 10240 + 3000, 12):
            content[place % len(content)] = chance.integers(256)
        path = tmp_path / f"{number}.tar"
        path.write_bytes(content[: int(chance.integers(len(content)))] if number % 3 == 0 else content)
        try:
            read(path, streaming)
        except ValueError as error:
            assert "tar files" in str(error) or "column" in str(error)
