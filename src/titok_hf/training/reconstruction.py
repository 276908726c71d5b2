"""What all tasks on images share: their data, the upkeep of the codebook, and the evaluation of reconstructions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from transformers import PreTrainedModel

from titok_hf.data.loaders import ResumableLoader
from titok_hf.data.run_data import RunData, open_image_data
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.reconstruction import ReconstructionMeter

from .codebook import CodebookCounter, CodebookReinitializer, trains_codebook
from .configs import ImageRecipe
from .images import errors_of_section, image_processor, sheet_of_pairs, to_pixel_values
from .recipes import RecipeError
from .rng import StepRng
from .task import Task

_BATCH_SIZE = 100
_IMAGES_SHOWN = 64


@dataclass
class Reconstruction:
    """
    The reconstructions of a batch of test images.

    Args:
        pixel_values: float in [0, 1], shape (batch, 3, height, width).
        codes: int64, or None where the model has no codebook.
        measures: further means over the batch, by the names of `further_measures`.
    """

    pixel_values: torch.Tensor
    codes: torch.Tensor | None
    measures: dict[str, torch.Tensor] = field(default_factory=dict)


class ReconstructionTask(Task):
    """
    The base class of tasks whose model reconstructs images. A subclass adds `model_losses` and `reconstruct`.

    Args:
        recipe: of any kind that trains on images.
        model: what is trained; parameters that do not require gradients stay as they are.
        accelerator: whose processes train together.
    Raises:
        RecipeError: the data, or `intervals.frechet_network`, cannot be used.
    """

    further_measures: tuple[str, ...] = ()

    def __init__(self, recipe: ImageRecipe, model: PreTrainedModel, accelerator: Accelerator):
        self.recipe, self.data, self.accelerator = recipe, recipe.data, accelerator
        self.model = model.to(accelerator.device)
        self.has_codebook = model.config.has_codebook
        num_test = recipe.intervals.num_test_images
        with errors_of_section("data"):
            opened = open_image_data(self.data, num_test, recipe.optimization.batch_size, recipe.seed)
        self.data_record, self.test_images = opened.splits.record, opened.test
        self.loader = self.make_loader(opened)
        self.counter = self._new_counter()
        self.codes_of_step: list[torch.Tensor] = []
        self.reinitializer = None
        if recipe.loss.reinitialize_codes and trains_codebook(model.quantizer):
            self.reinitializer = CodebookReinitializer(model.quantizer, accelerator)
        self.best, self.frechet = ("psnr", True), None
        if recipe.intervals.frechet_network is not None:
            self.best = ("frechet_distance", False)
            try:
                self.frechet = FrechetDistance(recipe.intervals.frechet_network, accelerator.device)
            except ValueError as error:
                raise RecipeError(f"intervals.frechet_network: {error}") from error

    def make_loader(self, opened: RunData) -> ResumableLoader:
        """The loader of the training batches."""
        return opened.loader

    def reconstruct(self, images: torch.Tensor, generators: list[torch.Generator]) -> Reconstruction:
        """
        Reconstructs test images with the present weights.

        Args:
            images: float in [0, 1], shape (batch, 3, height, width).
            generators: of the noise of each image, on the CPU.
        """
        raise NotImplementedError

    def kept_tokens(self, rng: StepRng) -> dict[str, int]:
        """
        `num_tokens` for the forward pass of a model with tail drop, uniform in 1 to all tokens (arXiv 2501.10064).
        All processes and accumulated batches of a step keep equally many, as if the step had one large batch.
        """
        config = self.model.config
        return {"num_tokens": rng.integer(1, config.num_latent_tokens)} if getattr(config, "tail_drop", False) else {}

    def before_step(self, finite: torch.Tensor) -> None:
        codes, self.codes_of_step = self.codes_of_step, []
        for each in codes:
            self.counter.update(each, finite)
        if self.reinitializer is not None:
            self.reinitializer.step(finite)

    def summary(self) -> dict[str, float]:
        """How many entries of the codebook are used, and how evenly."""
        return self.counter.compute() if self.has_codebook else {}

    def evaluate(self) -> tuple[dict[str, float], Image.Image | None]:
        """
        PSNR, SSIM, Frechet distance, codebook usage and `further_measures` on test images, of which each process takes
        its share; an image of originals above their reconstructions. The tokens of a KL model are samples, as in the
        published evaluation, with noise that depends on the number of the image alone.
        """
        meter, counter = ReconstructionMeter(), self._new_counter()
        sums = torch.zeros(1 + len(self.further_measures), dtype=torch.float64)  # of images and further measures
        if self.frechet is not None:
            self.frechet.reset()
        for numbers in self.own_batches():
            images, output = self.reconstruct_numbers(numbers)
            meter.update(output.pixel_values, images)
            if self.frechet is not None:
                self.frechet.update(images, real=True)
                self.frechet.update(output.pixel_values, real=False)
            if output.codes is not None:
                counter.update(output.codes)
            means = [output.measures[name].item() for name in self.further_measures]
            sums += len(images) * torch.tensor([1.0, *means], dtype=torch.float64)
        num_images, *totals = self.sum_over_processes(sums).tolist()
        measures = {name: total / num_images for name, total in zip(self.further_measures, totals, strict=True)}
        measures |= meter.compute(self.sum_over_processes)
        if self.frechet is not None:
            measures["frechet_distance"] = self.frechet.compute()
        if self.has_codebook:
            measures |= counter.compute()
        if not self.accelerator.is_main_process:
            return measures, None
        images, output = self.reconstruct_numbers(range(len(self.test_images))[:_IMAGES_SHOWN])
        return measures, sheet_of_pairs(images, output.pixel_values)

    def own_batches(self) -> Iterator[range]:
        """The numbers of the test images of this process, in batches."""
        own = range(len(self.test_images))[self.accelerator.process_index :: self.accelerator.num_processes]
        for start in range(0, len(own), _BATCH_SIZE):
            yield own[start : start + _BATCH_SIZE]

    def reconstruct_numbers(self, numbers: range) -> tuple[torch.Tensor, Reconstruction]:
        """The test images of these numbers, float in [0, 1], and their reconstructions."""
        images = to_pixel_values(self.test_images[list(numbers)].to(self.accelerator.device))
        return images, self.reconstruct(images, [torch.Generator().manual_seed(number) for number in numbers])

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=weights)
        image_processor(self.data.image_size, self.data.resize_mode).save_pretrained(folder)

    def checkpointed(self) -> list[Any]:
        parts = [self.counter if self.has_codebook else None, self.reinitializer]
        return [part for part in parts if part is not None]

    def _new_counter(self) -> CodebookCounter:
        return CodebookCounter(self.model.config.codebook_size if self.has_codebook else 0, self.accelerator)
