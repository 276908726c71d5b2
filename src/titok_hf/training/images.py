"""Images of a run: where they come from, on the way to the model, and as the pictures that a run writes."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from torch import nn

from titok_hf.contact_sheets import contact_sheet
from titok_hf.data.augmentation import Augmentation
from titok_hf.data.loaders import ImageLoader, ResumableLoader
from titok_hf.data.opening import Opened
from titok_hf.data.sources import NO_LABELS, Source
from titok_hf.data.splits import Splits, open_splits
from titok_hf.data.training_data import open_code_split, open_image_split
from titok_hf.evaluation.frechet import round_to_bytes
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil

from .configs import CodeDataConfig, ImageDataConfig, OptimizationConfig
from .recipes import RecipeError
from .run_folder import HELD_OUT

logger = logging.getLogger(__name__)


def image_splits(config: ImageDataConfig, num_test: int, with_labels: bool = False) -> Splits:
    """
    Opens the training and the test images of a run.

    Args:
        num_test: images that are held out of the training split if the recipe names no test split.
        with_labels: whether every image needs a class; without, labels are left out, whatever they are.
    Raises:
        RecipeError: no such data or split, a stream without a test split, fewer images than are to be held out, or,
            with labels, images without a class.
    """
    open_split = partial(open_image_split, config.source, label_column=None if with_labels else NO_LABELS)
    open_train = partial(open_split, config.train_split, config.streaming)
    open_test = None if config.test_split is None else partial(open_split, config.test_split)
    return _splits("data", open_train, open_test, num_test, with_labels)


def code_splits(config: CodeDataConfig, num_test: int) -> Splits:
    """Opens the training and the test codes of a run, with labels; arguments and errors as for `image_splits`."""
    open_train = partial(open_code_split, config.source, config.train_split, config.streaming)
    open_test = None
    if config.test_split is not None or config.test_source is not None:
        open_test = partial(
            open_code_split, config.test_source or config.source, config.test_split or config.train_split
        )
    return _splits("codes", open_train, open_test, num_test, with_labels=True)


def _splits(
    section: str,
    open_train: Callable[[], Opened],
    open_test: Callable[[], Opened] | None,
    num_test: int,
    with_labels: bool,
) -> Splits:
    try:
        splits = open_splits(open_train, open_test, num_test, with_labels)
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(f"{section}: {error}") from error
    if open_test is None:
        splits.record[HELD_OUT] = num_test
    return splits


def image_loader(
    dataset: Dataset | IterableDataset, config: ImageDataConfig, optimization: OptimizationConfig, seed: int
) -> ImageLoader:
    """The training images of a run, shuffled and augmented as the recipe says; RecipeError if there are too few."""
    loader = ImageLoader(
        dataset,
        image_size=config.image_size,
        batch_size=optimization.batch_size,
        random_crop=config.random_crop,
        flip=config.horizontal_flip,
        seed=seed,
        workers=config.num_workers,
        resize_mode=config.resize_mode,
        skip_broken=config.broken_images == "skip",
    )
    if isinstance(dataset, Dataset):
        check_batches(loader, len(dataset))
    return loader


def check_batches(loader: ResumableLoader, num_examples: int) -> None:
    """RecipeError unless an epoch of `num_examples` fills a batch of every process."""
    if num_examples < loader.global_batch_size:
        raise RecipeError(
            f"optimization.batch_size is {loader.batch_size} in each of {loader.part.world_size} processes, and there "
            f"are {num_examples} examples to train on. Lower it, use fewer processes, or bring more data."
        )


def decode_images(dataset: Dataset, config: ImageDataConfig, limit: int) -> tuple[torch.Tensor, list[int | None]]:
    """
    The first `limit` images as tests see them; without those that cannot be read where the recipe skips such images.

    Returns:
        uint8, shape (limit, 3, image_size, image_size), and their labels, None where there are none.
    Raises:
        RecipeError: an image that cannot be read and is not skipped, or none that can.
    """
    source = Source(dataset, limit=limit)
    decode = Augmentation(config.image_size, random_crop=False, flip=False, seed=0, resize_mode=config.resize_mode)
    images, labels = [], []
    for record in source.read(0, source.num_images or 0):
        try:
            batch, _ = decode((0, [record]))
        except ValueError as error:
            if config.broken_images == "stop":
                raise RecipeError(f"data: {error}") from error
            logger.warning(f"skipped in tests: {error}")
            continue
        images.append(batch["pixels"])
        labels.append(record.label)
    if not images:
        raise RecipeError(f"data: no test image of {config.source} can be read.")
    return torch.from_numpy(np.concatenate(images)), labels


def weights_digest(model: nn.Module) -> str:
    """Of the first values of every parameter, which differ where two models of one kind were trained differently."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def image_processor(image_size: int, resize_mode: str) -> TiTokImageProcessorPil:
    """What brings a picture to the form that a run trained on; it is saved beside the model."""
    return TiTokImageProcessorPil(size={"shortest_edge": image_size}, do_enlarge=resize_mode == "resize")


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1], any shape."""
    return images.float() / 255


def picture_of(pixel_values: torch.Tensor, columns: int, labels: Sequence[str] | None = None) -> Image.Image:
    """A contact sheet of images with values around [0, 1], shape (batch, 3, height, width); a label for each row."""
    pixels = round_to_bytes(pixel_values).permute(0, 2, 3, 1).cpu().numpy()
    return contact_sheet([Image.fromarray(image) for image in pixels], columns, labels=labels)


def picture_of_pairs(images: torch.Tensor, reconstructions: torch.Tensor, columns: int = 16) -> Image.Image:
    """A contact sheet with a row of images above the row of their reconstructions, and so on; the last two rows may
    end earlier than the others."""
    columns = min(columns, len(images))
    missing = -len(images) % columns
    rows = [torch.cat([half, torch.ones_like(half[:missing])]).split(columns) for half in (images, reconstructions)]
    return picture_of(torch.cat([row for pair in zip(*rows, strict=True) for row in pair]), columns)
