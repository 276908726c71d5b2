"""What a recipe says of the data of a run. Imports neither torch nor `datasets`."""

from dataclasses import dataclass
from typing import Literal

# The number of test examples, under the name that recipes give it.
HELD_OUT = "intervals.num_test_images"


@dataclass
class ImageDataConfig:
    """
    The images of a run.

    Args:
        source: what `datasets` opens: a folder of images, Parquet files such as `titok-hf prepare` writes, a Hub id;
            or a folder with the four files of an MNIST-like data set.
        image_size: height and width of the images, in pixels.
        resize_mode: "resize" (shorter edge, then a crop) or "pad" (small images centred on black).
        train_split, test_split: names of the two splits. Without a test split, `intervals.num_test_images` images are
            held out of the training split, the same ones in every run.
        random_crop: whether training crops lie at a random position; else, and in tests, at the centre.
        horizontal_flip: whether half of the training images are mirrored.
        streaming: whether training images are read as a stream, without a local copy.
        num_workers: processes that decode training images; 0 decodes in the training process.
        broken_images: "stop" ends the run at a training image that cannot be read, names it and saves the state before
            it; "skip" replaces it by another image of its batch and names it in a warning. `skipped_images` in
            `metrics.jsonl` is their number so far. Test images that cannot be read are then left out.
        codes: for stage 1, the data set that `titok-hf pretokenize` made of `source` with the teacher. Without one,
            the teacher encodes each batch.
    """

    source: str
    image_size: int
    resize_mode: Literal["resize", "pad"] = "resize"
    train_split: str = "train"
    test_split: str | None = "test"
    random_crop: bool = False
    horizontal_flip: bool = False
    streaming: bool = False
    num_workers: int = 0
    broken_images: Literal["stop", "skip"] = "stop"
    codes: str | None = None


@dataclass
class CodeDataConfig:
    """
    The codes of a generator run, as `titok-hf pretokenize` writes them. An epoch takes one view of each image.

    Args:
        source: folder or Hub id with the codes of the training images.
        test_source: folder or Hub id with the codes of the test images, if it is another one.
        train_split, test_split: names of the two splits. Without a test split, the codes of
            `intervals.num_test_images` images are held out of the training split.
        streaming: whether training codes are read as a stream, without a local copy.
    """

    source: str
    test_source: str | None = None
    train_split: str = "train"
    test_split: str | None = None
    streaming: bool = False
