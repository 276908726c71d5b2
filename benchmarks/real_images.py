"""A folder of real images of many sizes, modes and formats, some of them damaged, to measure and test data sets with.

    python benchmarks/real_images.py /tmp/real-images

Takes test images of Fashion-MNIST (Debian package dataset-fashion-mnist) and the stamps of Tux Paint (Debian package
tuxpaint-stamps-default): PNG and JPEG from 28 to 2,000 pixels; L, P, RGB, RGBA and more. Ten files of other kinds
lie among them: empty, truncated, text, animated, CMYK, 16 bits, 100 megapixels.
"""

import argparse
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
STAMPS = Path("/usr/share/tuxpaint/stamps")


def make(folder: Path, num_fashion: int) -> None:
    """Fills `folder` with a folder a class."""
    from titok_hf.data.training_data import open_images

    dataset = open_images(FASHION_MNIST, "test")
    names = dataset.features["label"].names
    for number, row in enumerate(dataset.select(range(num_fashion))):
        path = folder / names[row["label"]].replace("/", "-") / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(path, compress_level=1)
    stamps = sorted(path for path in STAMPS.rglob("*") if path.suffix in (".png", ".jpg"))
    for number, stamp in enumerate(stamps):
        path = folder / f"stamp-{stamp.relative_to(STAMPS).parts[0]}" / f"{number:05d}-{stamp.name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stamp, path)
    add_damaged(folder, stamps)


def add_damaged(folder: Path, stamps: list[Path]) -> None:
    """One file of each kind that a run should survive, spread over the classes."""
    classes = sorted(folder.iterdir())
    chance = random.Random(0)

    def place(name: str) -> Path:
        return chance.choice(classes) / name

    whole = stamps[0].read_bytes()
    place("zz-empty.png").write_bytes(b"")
    place("zz-text.jpg").write_text("404 not found")
    place("zz-truncated.png").write_bytes(whole[: len(whole) // 2])
    place("zz-noise.jpg").write_bytes(random.Random(1).randbytes(5_000))
    picture = Image.open(stamps[0]).convert("RGB")
    picture.save(place("zz-animated.gif"), save_all=True, append_images=[picture.rotate(90), picture.rotate(180)])
    picture.convert("CMYK").save(place("zz-cmyk.jpg"))
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(place("zz-sixteen-bits.png"))
    Image.new("1", (10_000, 10_000)).save(place("zz-hundred-megapixels.png"))
    picture.save(place("zz-whole.webp"))
    jpeg = place("zz-cut.jpg")
    picture.save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:-500])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-fashion", type=int, default=4_300)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.num_fashion)
    print(f"{sum(path.is_file() for path in arguments.folder.rglob('*')):,} files in {arguments.folder}")
