"""What an evaluation measures of reconstructions: over batches, and over processes."""

from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator

from titok_hf.devices import float64_device
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.reconstruction import ReconstructionMeter

from .codebook import CodebookCounter
from .recipes import RecipeError

_BATCH_SIZE = 100


class ReconstructionMeasures:
    """
    PSNR, SSIM, use of the codebook and, with a network at hand, the Frechet distance of reconstructions, each of all
    processes together.

    Args:
        accelerator: whose processes measure, each a share of the images.
        codebook_size: entries of the codebook; 0 for models without one.
        frechet_network: see `IntervalsConfig`; None leaves the distance out.
    Raises:
        RecipeError: there is no such network.
    """

    def __init__(self, accelerator: Accelerator, codebook_size: int, frechet_network: str | None):
        self.accelerator, self.codebook_size = accelerator, codebook_size
        self.frechet: FrechetDistance | None = None
        if frechet_network is not None:
            try:
                self.frechet = FrechetDistance(frechet_network, accelerator.device)
            except ValueError as error:
                raise RecipeError(f"intervals.frechet_network: {error}") from error
        self.reset()

    @property
    def best(self) -> tuple[str, bool]:
        """The measure by which the best model is kept, and whether more of it is better."""
        return ("psnr", True) if self.frechet is None else ("frechet_distance", False)

    def reset(self) -> None:
        """Forgets all images."""
        self.meter = ReconstructionMeter()
        self.counter = CodebookCounter(self.codebook_size, self.accelerator)
        if self.frechet is not None:
            self.frechet.reset()

    def own_batches(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """The share of this process of all test images, in batches; nothing where it has no image."""
        own = images[self.accelerator.process_index :: self.accelerator.num_processes]
        if len(own):
            yield from own.split(_BATCH_SIZE)

    def own_generators(self, num_images: int) -> Iterator[list[torch.Generator]]:
        """Beside `own_batches`: a generator for each image that depends on its number alone."""
        own = range(num_images)[self.accelerator.process_index :: self.accelerator.num_processes]
        for start in range(0, len(own), _BATCH_SIZE):
            yield generators_of(own[start : start + _BATCH_SIZE])

    def update(self, images: torch.Tensor, reconstructions: torch.Tensor, codes: torch.Tensor | None) -> None:
        """Adds a batch: float images in [0, 1], shape (batch, 3, height, width), twice, and the codes if there are."""
        self.meter.update(reconstructions, images)
        if self.frechet is not None:
            self.frechet.update(images, real=True)
            self.frechet.update(reconstructions, real=False)
        if codes is not None:
            self.counter.update(codes)

    def compute(self) -> dict[str, float]:
        """`psnr`, `ssim`, `frechet_distance`, `codes_used` and `codebook_perplexity`, those of them that there are."""
        measures = self.meter.compute(self.sum_over_processes)
        if self.frechet is not None:
            measures["frechet_distance"] = self.frechet.compute()
        return measures | (self.counter.compute() if self.codebook_size else {})

    def sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over processes, on the CPU."""
        return self.accelerator.reduce(value.to(float64_device(self.accelerator.device)), "sum").cpu()


def generators_of(images: Iterable[int]) -> list[torch.Generator]:
    """A generator on the CPU for each image, given the numbers of the images: the noise of a KL model's tokens."""
    return [torch.Generator().manual_seed(image) for image in images]
