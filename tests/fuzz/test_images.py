"""
Damaged and odd images, and folders laid out in every way that people come up with: each image is a row, or is listed
with the reason; each folder is read, or refused in one sentence.

`FUZZ_CASES` is the number of layouts and a tenth of the number of images, `FUZZ_SEED` the first seed.
"""

import io
import os
import sys
import tarfile
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from tiny_pipeline import tiny_image_processor
from titok_hf.data.crops import PrepareSettings
from titok_hf.data.decoding import Decoding, UnusableImage
from titok_hf.data.prepare import prepare

sys.path.insert(0, str(Path(__file__).parent))
from mutate import mutate_bytes  # noqa: E402

CASES = int(os.environ.get("FUZZ_CASES", 8))
SEED = int(os.environ.get("FUZZ_SEED", 0))
SLOWEST = 30.0  # seconds that one case may take

FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
    "TGA": ("L", "RGB", "RGBA"),
    "ICO": ("RGBA",),
    "JPEG2000": ("L", "RGB", "RGBA"),
}


def image_file(rng: Random) -> bytes:
    """An image of any format, mode and shape, with several frames now and then."""
    name = rng.choice(sorted(FORMATS))
    mode = rng.choice(FORMATS[name])
    size = rng.choice([(1, 1), (40, 30), (3, 200), (64, 64)])
    noise = np.frombuffer(rng.randbytes(size[0] * size[1] * 4), np.uint8).reshape(size[1], size[0], 4)
    image = Image.fromarray(noise, "RGBA") if mode != "I;16" else Image.fromarray(noise.view(np.uint16)[..., 0])
    if mode != "I;16":
        image = image.convert("RGB").convert(mode) if mode not in ("RGBA", "LA") else image.convert(mode)
    frames = {"save_all": True, "append_images": [image]} if name in ("GIF", "TIFF") and rng.random() < 0.2 else {}
    exif = (
        {"exif": rng.randbytes(rng.randint(0, 40))} if name in ("JPEG", "PNG", "WEBP") and rng.random() < 0.3 else {}
    )
    file = io.BytesIO()
    image.save(file, name, **frames, **exif)
    return file.getvalue()


@pytest.mark.parametrize("way", ["scale", "published", "skip"])
def test_an_image_is_decoded_or_refused_in_one_sentence(way):
    decoding, decoded = Decoding(unusual_modes=way, max_pixels=10**6), 0
    for seed in range(SEED, SEED + 10 * CASES):
        rng = Random(seed)
        content = image_file(rng)
        if rng.random() < 0.7:
            content = mutate_bytes(content, rng)
        started = time.monotonic()
        try:
            image = decoding.decode(content).image
            assert image.mode == "RGB" and image.width * image.height <= 10**6
            decoded += 1
        except UnusableImage as error:
            assert 0 < len(str(error)) < 500 and "\n" not in str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < SLOWEST, f"seed {seed}"
    assert decoded > CASES  # or this test would say nothing


def test_the_processor_takes_an_image_or_refuses_it(tmp_path):
    processor, path, taken = tiny_image_processor(), tmp_path / "image", 0
    for seed in range(SEED, SEED + 10 * CASES):
        rng = Random(seed)
        path.write_bytes(mutate_bytes(image_file(rng), rng) if rng.random() < 0.5 else image_file(rng))
        started = time.monotonic()
        try:
            pixels = processor(str(path), return_tensors="pt").pixel_values
            assert pixels.shape == (1, 3, 32, 32) and 0 <= pixels.min() <= pixels.max() <= 1
            taken += 1
        except (OSError, ValueError) as error:
            assert str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < SLOWEST, f"seed {seed}"
    assert taken > CASES


NAMES = (
    *(
        "cat",
        "dog",
        "train",
        "test",
        "val",
        "validation",
        "bus train car",
        "bullet_train",
        "train-set",
        "testing",
        "data",
    ),
    *(
        "a[b]c",
        "what?",
        "star*",
        "ü",
        "0",
        "none",
        "label",
        "CON",
        "x.y",
        "images",
        "__MACOSX",
        ".hidden",
        "n01440764",
    ),
)
JUNK = (
    "README.md",
    "notes.txt",
    "labels.csv",
    "Thumbs.db",
    ".DS_Store",
    "empty.png",
    "text.jpg",
    "stray.tar",
    "cut.tar",
)


class Layout:
    """A random folder of images."""

    def __init__(self, top: Path, rng: Random):
        self.top, self.rng = top, rng
        self.num_files = 0
        for folder in self._folders():
            for _ in range(rng.choice((1, 1, 2, 3))):
                self._image(folder)
        for name in rng.sample(JUNK, rng.choice((0, 1, 1, 2))):
            self._junk(rng.choice([top, *self.folders]) / name)
        self._links()

    def _folders(self) -> list[Path]:
        names, rng = self.rng.sample(NAMES, self.rng.randint(1, 4)), self.rng
        kind = rng.choice(("flat", "classes", "classes", "splits", "nested", "mixed"))
        if kind == "flat":
            self.folders = [self.top]
        elif kind == "splits":
            splits = rng.choice((("train",), ("train", "test"), ("train", "val"), ("training", "testing")))
            self.folders = [
                self.top / split / name for split in splits for name in names[: rng.randint(1, len(names))]
            ]
        elif kind == "nested":
            self.folders = [self.top / f"group {index % 2}" / name for index, name in enumerate(names)]
        else:
            self.folders = [self.top / name for name in names] + [self.top] * (kind == "mixed")
        return self.folders

    def _image(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        suffix = self.rng.choice((".png", ".jpg", ".JPG", ".webp", ".jpeg"))
        kind = {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        shade = tuple(self.rng.randbytes(3))
        Image.new("RGB", (8, 8), shade).save(folder / f"{self.num_files}{suffix}", kind)
        self.num_files += 1

    def _junk(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tar":
            with tarfile.open(path, "w") as file:
                info = tarfile.TarInfo("x.txt")
                info.size = 1
                file.addfile(info, io.BytesIO(b"x"))
            if path.name == "cut.tar":
                path.write_bytes(path.read_bytes()[:100])
        else:
            path.write_bytes(b"" if path.name == "empty.png" else b"just text\n")

    def _links(self) -> None:
        way = self.rng.randrange(8)
        try:
            if way == 0:
                (self.folders[0] / "loop").symlink_to(self.top)
            elif way == 1:
                (self.top / "broken.png").symlink_to(self.top / "nowhere.png")
            elif way == 2:
                os.mkfifo(self.folders[-1] / "pipe.png")
            elif way == 3:
                (self.top / "empty folder").mkdir()
        except FileExistsError:
            pass

    def images(self) -> list[str]:
        """Whole images that are not hidden, relative to the folder."""
        paths = [path for path in self.top.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]
        names = [path.relative_to(self.top).as_posix() for path in paths if path.is_file() and path.stem.isdigit()]
        return [name for name in names if not f"/{name}".count("/.") and "__MACOSX" not in name]


def test_each_image_of_a_folder_is_a_row_or_is_listed(tmp_path):
    refused = 0
    for seed in range(SEED, SEED + CASES):
        layout = Layout(tmp_path / f"source-{seed}", Random(seed))
        started = time.monotonic()
        try:
            report = prepare(layout.top, tmp_path / f"made-{seed}", PrepareSettings(image_size=8), workers=0)
        except (OSError, ValueError) as error:
            assert layout.top.name in str(error) and len(str(error)) < 1500, f"seed {seed}: {error}"
            refused += 1
            continue
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < SLOWEST, f"seed {seed}"
        unused = [entry.path for entry in report.unused]
        used = [name for name in layout.images() if not any(f"{name}/".startswith(f"{path}/") for path in unused)]
        assert report.num_rows == len(used), f"seed {seed}: {report}, {layout.images()}"
        if not report.num_rows:  # every image is listed, and `datasets` opens no empty split
            continue
        rows = load_dataset(str(tmp_path / f"made-{seed}"), split="train")
        if "label" in rows.features:
            names = rows.features["label"].names
            made = sorted(names[label] for label in rows["label"])
            expected = sorted(Path(layout.top.name, name).parent.name for name in used)
            # A lone folder called "train-set" is a split, to `datasets` too, and its images are of one class then.
            is_one_split = {Path(name).parent.as_posix() for name in used} in ({"train-set"}, {"train"})
            assert made == expected or is_one_split and set(made) == {layout.top.name}, f"seed {seed}"
        else:
            assert report.no_labels, f"seed {seed}: no labels, and no reason"
    assert refused < CASES / 2
