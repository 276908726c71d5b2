"""
Inpainting on test images: the mean of the known pixels, the generator, token optimisation, and the last two together.

    python benchmarks/inpainting.py /usr/share/datasets/fashion-mnist --crop pad --network my-classifier

Each image has one square hole at a random position. Results are written after each method.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from titok_hf import TiTokPipeline, bundled_checkpoint
from titok_hf.contact_sheets import contact_sheet
from titok_hf.editing.token_optimization import TokenOptimization
from titok_hf.evaluation.evaluate_generation import image_generator
from titok_hf.evaluation.frozen_classifier import FrozenClassifier
from titok_hf.evaluation.images import EvaluationImages

_SHOWN = 12
_WITHOUT_RANDOM_NUMBERS = ("test images", "mean of the known pixels", "reconstruction of the whole image")
_MARGIN = 6  # no hole begins nearer to the edge: there most images are black


def main() -> None:
    options = parsed()
    pipe = TiTokPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    size = pipe.tokenizer.config.image_size
    source = EvaluationImages(options.data, "test", size, options.crop, options.num_images)
    images, labels = source.read(range(len(source)))
    images = images.float() / 255
    masks = square_holes(len(images), size, options.hole)
    judge = FrozenClassifier(options.network)
    settings = TokenOptimization(options.iterations, options.learning_rate, options.noise)
    results: dict[str, list[dict[str, float]]] = {}
    shown: dict[str, torch.Tensor] = {"test image": images, "given": images.masked_fill(masks, 0.5)}
    for seed in range(options.seeds):
        for name, fill in methods(pipe, images, masks, labels, settings, seed).items():
            if seed and name in _WITHOUT_RANDOM_NUMBERS:
                continue
            start = time.perf_counter()
            filled = fill()
            numbers = measured(filled, images, masks, labels, judge)
            numbers["seconds_per_image"] = (time.perf_counter() - start) / len(images)
            results.setdefault(name, []).append(numbers)
            shown.setdefault(name, filled)
            print(name, seed, numbers, flush=True)
            conditions = {**vars(options), "images": source.name, "settings": vars(settings)}
            text = json.dumps({"conditions": conditions, "results": results}, indent=2, default=str)
            options.output.write_text(text + "\n")
        if seed == 0:
            rows = [name for name in shown if name != "test images"]
            cells = [image for name in rows for image in pipe.image_processor.post_process(shown[name][:_SHOWN])]
            columns = min(_SHOWN, len(images))
            contact_sheet(cells, columns, scale=2, labels=rows).save(options.output.with_suffix(".png"))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set with labels and a split test")
    parser.add_argument("--network", required=True, help="a classifier of these classes: the judge")
    parser.add_argument("--model", default=str(bundled_checkpoint()))
    parser.add_argument("--crop", default="center")
    parser.add_argument("--num-images", type=int, default=100)
    parser.add_argument("--hole", type=int, default=12, help="edge of the hole in pixels")
    default = TokenOptimization()
    parser.add_argument("--iterations", type=int, default=default.num_steps, help="steps of the token optimisation")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--noise", type=float, default=default.noise)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("inpainting.json"))
    return parser.parse_args()


def square_holes(count: int, size: int, edge: int) -> torch.Tensor:
    """One hole for each image at a random position, the same in every run: bool, (count, 1, size, size)."""
    masks = torch.zeros(count, 1, size, size, dtype=torch.bool)
    corners = torch.randint(_MARGIN, size - edge - _MARGIN + 1, (count, 2), generator=torch.Generator().manual_seed(0))
    for mask, (top, left) in zip(masks, corners.tolist(), strict=True):
        mask[0, top : top + edge, left : left + edge] = True
    return masks


def methods(
    pipe: TiTokPipeline,
    images: torch.Tensor,
    masks: torch.Tensor,
    labels: torch.Tensor,
    settings: TokenOptimization,
    seed: int,
) -> dict[str, Callable[[], torch.Tensor]]:
    """What is compared: each gives the filled images, with the known pixels as they were."""
    known = ~masks
    mean = (images * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)

    def generators() -> list[torch.Generator]:
        return [image_generator(seed, 0, number) for number in range(len(images))]

    classes = labels.tolist()
    return {
        "test images": lambda: images,
        "mean of the known pixels": lambda: torch.where(masks, mean, images),
        "generator": lambda: pipe.infill(images, masks, classes, "pt", generator=generators()).images,
        "token optimisation": lambda: pipe.inpaint(images, masks, None, settings, generators(), "pt").images,
        "both": lambda: pipe.inpaint(images, masks, classes, settings, generators(), "pt").images,
        "reconstruction of the whole image": lambda: torch.where(masks, pipe.reconstruct(images, "pt"), images),
    }


@torch.no_grad()
def measured(
    filled: torch.Tensor, images: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor, judge: FrozenClassifier
) -> dict[str, float]:
    """PSNR within the hole, mean and standard error over images; and how many the judge names right."""
    inside = masks.expand_as(images)
    errors = ((filled - images).square() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
    psnr = -10 * errors.clamp(min=1e-10).log10()
    right = judge(filled).logits.argmax(dim=1) == labels
    return {
        "psnr": psnr.mean().item(),
        "psnr_standard_error": (psnr.std() / len(psnr) ** 0.5).item(),
        "accuracy": right.float().mean().item(),
    }


if __name__ == "__main__":
    main()
