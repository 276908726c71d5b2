"""The idx files in which data sets of the MNIST family are published."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

FASHION_MNIST_CLASSES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")

# The names under which every data set of the MNIST family is published.
IDX_PREFIXES = {"train": "train", "test": "t10k"}
IDX_IMAGES_MAGIC = 0x0803  # unsigned bytes, three dimensions: image, row, column
IDX_LABELS_MAGIC = 0x0801  # unsigned bytes, one dimension


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds compressed idx files."""
    return folder.is_dir() and any(folder.glob("*-idx?-ubyte.gz"))


def load_idx_folder(folder: Path, split: str) -> Dataset:
    """One split of an MNIST-like data set. Arguments and errors are those of `open_dataset`."""
    if split not in IDX_PREFIXES:
        raise ValueError(f"{folder} has no split {split!r}. MNIST-like folders have: {', '.join(IDX_PREFIXES)}.")
    prefix = IDX_PREFIXES[split]
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", IDX_IMAGES_MAGIC)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", IDX_LABELS_MAGIC)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} images but {len(labels)} labels in the split {split!r}.")
    # Those of all splits that are there, so that all of them have the same classes.
    paths = [folder / f"{prefix}-labels-idx1-ubyte.gz" for prefix in IDX_PREFIXES.values()]
    num_classes = 1 + max(int(_read_idx(path, IDX_LABELS_MAGIC).max(initial=0)) for path in paths if path.is_file())
    is_fashion = "fashion" in folder.resolve().name.lower() and num_classes <= len(FASHION_MNIST_CLASSES)
    names = FASHION_MNIST_CLASSES if is_fashion else [str(index) for index in range(max(num_classes, 10))]
    return Dataset.from_dict(
        {"image": [{"bytes": _png(image), "path": None} for image in images], "label": labels.tolist()},
        features=Features({"image": Image(), "label": ClassLabel(names=names)}),
    )


def _read_idx(path: Path, expected_magic: int) -> np.ndarray:
    """One idx file: a magic number whose last byte counts the dimensions, their sizes (big endian), then the bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. An MNIST-like folder holds images and labels of train and t10k.")
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or not a gzip file ({error}). Fetch it again.") from error
    magic = int.from_bytes(content[:4], "big")
    if magic != expected_magic:
        raise ValueError(f"{path} starts with the magic number {magic:#010x}; expected {expected_magic:#010x}.")
    num_dimensions = magic & 0xFF
    header_size = 4 + 4 * num_dimensions
    if len(content) < header_size:
        raise ValueError(f"{path} ends within its header. Fetch it again.")
    shape = struct.unpack(f">{num_dimensions}I", content[4:header_size])
    expected_size = header_size + int(np.prod(shape))
    if len(content) != expected_size:
        raise ValueError(f"{path} holds {len(content)} bytes; its header promises {expected_size}. Fetch it again.")
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
