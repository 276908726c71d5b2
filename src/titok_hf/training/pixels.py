"""Training on pixels: reconstruction, perceptual, quantiser and adversarial loss of whatever autoencodes images."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from titok_hf.data.run_data import open_image_data

from .adversarial import LeCam, discriminator_logits, discriminator_loss, generator_adversarial_loss
from .codebook import CodebookCounter, CodebookReinitializer, trains_codebook
from .configs import AdversarialConfig, ImageDataConfig, PixelLossConfig, Recipe
from .discriminator import Discriminator
from .images import errors_of_section, image_processor, picture_of_pairs, to_pixel_values
from .losses import pixel_loss, weighted_loss
from .measures import ReconstructionMeasures, generators_of
from .perceptual import PerceptualLoss
from .rng import StepRng
from .task import Batch, ModelLosses, Scalars, Task

_IMAGES_SHOWN = 64


class PixelTask(Task):
    """
    A [`TiTokModel`] with pixels at its end, or a [`MaskGitVQGANModel`], its images, and the loss on pixels.

    Args:
        recipe: of any kind with `data` and a [`PixelLossConfig`].
        model: what is trained; parameters that do not require gradients stay as they are.
        accelerator: whose processes train together.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        self.weights: PixelLossConfig = recipe.loss  # type: ignore[attr-defined]
        self.model = model.to(accelerator.device)
        self.has_codebook = model.config.has_codebook
        self.data: ImageDataConfig = recipe.data  # type: ignore[attr-defined]
        num_test, batch_size = recipe.intervals.num_test_images, recipe.optimization.batch_size
        with errors_of_section("data"):
            opened = open_image_data(self.data, num_test, batch_size, recipe.seed)
        self.data_record, self.loader, self.test_images = opened.splits.record, opened.loader, opened.test
        self._make_losses()
        codebook_size = model.config.codebook_size if self.has_codebook else 0
        self.measures = ReconstructionMeasures(accelerator, codebook_size, recipe.intervals.frechet_network)
        self.best = self.measures.best
        self.counter = CodebookCounter(codebook_size, accelerator)

    def _make_losses(self) -> None:
        self.perceptual, self.discriminator, self.reinitializer = None, None, None
        if self.weights.perceptual is not None:
            self.perceptual = PerceptualLoss(self.weights.perceptual).to(self.accelerator.device)
        if self.weights.adversarial is not None:
            adversarial = self.weights.adversarial
            self.lecam = LeCam(self._mean_over_processes)
            self.discriminator = Discriminator(
                self.model.config.num_channels, adversarial.hidden_channels, adversarial.num_stages
            )
        if self.weights.reinitialize_codes and trains_codebook(self.model.quantizer):
            self.reinitializer = CodebookReinitializer(self.model.quantizer, self.accelerator)

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """Reconstruction, quantiser, perceptual and adversarial loss of uint8 images (batch, 3, height, width)."""
        images = to_pixel_values(batch["pixels"])
        noise = {} if self.has_codebook else {"generator": rng.generators(len(images))}
        output = model(images, return_loss=True, return_dict=True, **noise)
        if self.has_codebook:
            self.counter.update(output.codes)
        reconstructions = output.pixel_values.float()
        adversarial = self.weights.adversarial if self.discriminator_learns(step) else None
        with self.accelerator.autocast():
            scalars = self._model_loss(images, reconstructions, output.loss, adversarial)
            if adversarial is not None and rng.num_batches > 1:
                # LeCam's term is a function of the mean over the whole step.
                with torch.no_grad():
                    self.lecam.observe(*discriminator_logits(self.discriminator, images, reconstructions))
        return ModelLosses(scalars, images, reconstructions)

    def discriminator_learns(self, step: int) -> bool:
        """From the recipe's `start_step` on."""
        adversarial = self.weights.adversarial
        return adversarial is not None and step >= adversarial.start_step

    def discriminator_losses(
        self, discriminator: nn.Module, images: torch.Tensor, reconstructions: torch.Tensor
    ) -> Scalars:
        """Hinge loss and LeCam regularisation."""
        weight = self.weights.adversarial.lecam_weight  # type: ignore[union-attr]
        with self.accelerator.autocast():
            return discriminator_loss(discriminator, self.lecam.loss, images, reconstructions, weight)

    def _model_loss(
        self,
        images: torch.Tensor,
        reconstructions: torch.Tensor,
        quantizer_loss: torch.Tensor,
        adversarial: AdversarialConfig | None,
    ) -> Scalars:
        weights, parts = self.weights, Scalars()
        terms = {
            "reconstruction_loss": (
                weights.reconstruction_weight,
                pixel_loss(reconstructions, images, weights.reconstruction),
            ),
            "quantizer_loss": (weights.quantizer_weight, quantizer_loss.float()),
        }
        if self.perceptual is not None:
            parts = self.perceptual(reconstructions, images)
            terms["perceptual_loss"] = (1.0, parts["perceptual_loss"])
        if adversarial is not None:
            adversarial_loss = generator_adversarial_loss(self.discriminator, reconstructions)
            terms["adversarial_loss"] = (adversarial.weight, adversarial_loss)
        losses = {name: loss for name, (_, loss) in terms.items()}
        return parts | weighted_loss(losses, {name: weight for name, (weight, _) in terms.items()})

    def before_step(self) -> None:
        if self.reinitializer is not None:
            self.reinitializer.step()
        if self.discriminator is not None:
            self.lecam.step()

    def summary(self) -> dict[str, float]:
        """How many entries of the codebook are used, and how evenly."""
        return self.counter.compute() if self.has_codebook else {}

    def evaluate(self) -> tuple[dict[str, float], Image.Image]:
        """
        PSNR, SSIM, Frechet distance and codebook usage on test images, of which each process takes its share; a
        picture of originals above their reconstructions. The tokens of a KL model are samples, as in the published
        evaluation, with noise of their own for each image, the same in every evaluation.
        """
        self.measures.reset()
        own_generators = self.measures.own_generators(len(self.test_images))
        for batch, generators in zip(self.measures.own_batches(self.test_images), own_generators, strict=True):
            self.measures.update(*self._reconstruct(batch, generators))
        shown = self.test_images[:_IMAGES_SHOWN]
        images, reconstructions, _ = self._reconstruct(shown, generators_of(range(len(shown))))
        return self.measures.compute(), picture_of_pairs(images, reconstructions)

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=weights)
        image_processor(self.data.image_size, self.data.resize_mode).save_pretrained(folder)

    def checkpointed(self) -> list[Any]:
        parts: list[Any] = [self.counter if self.has_codebook else None, self.reinitializer]
        parts.append(self.lecam if self.discriminator is not None else None)
        return [part for part in parts if part is not None]

    def _reconstruct(
        self, batch: torch.Tensor, generators: list[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Images, their reconstructions in [0, 1], and their codes if they have any, of uint8 images."""
        images = to_pixel_values(batch.to(self.accelerator.device))
        noise = {} if self.has_codebook else {"generator": generators}
        output = self.model(images, return_dict=True, **noise)
        return images, output.pixel_values.float().clamp(0, 1), output.codes

    def _mean_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value, "mean")
