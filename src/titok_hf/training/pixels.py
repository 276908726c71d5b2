"""Training on pixels: reconstruction, perceptual, quantiser and adversarial loss of whatever autoencodes images."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from .adversarial import LeCam, discriminator_logits, discriminator_loss, generator_adversarial_loss
from .configs import AdversarialConfig, PixelLossConfig, PixelRecipe
from .discriminator import Discriminator
from .images import to_pixel_values
from .losses import pixel_loss, weighted_loss
from .perceptual import PerceptualLoss
from .reconstruction import Reconstruction, ReconstructionTask
from .rng import StepRng
from .task import Batch, ModelLosses, Scalars


class PixelTask(ReconstructionTask):
    """
    A [`TiTokModel`] that predicts pixels, or a [`MaskGitVQGANModel`], its images, and the loss on pixels.

    Args:
        recipe: of any kind with `data` and a [`PixelLossConfig`].
        model: what is trained; parameters that do not require gradients stay as they are.
        accelerator: whose processes train together.
    """

    def __init__(self, recipe: PixelRecipe, model: PreTrainedModel, accelerator: Accelerator):
        weights: PixelLossConfig = recipe.loss
        self.weights, self.perceptual, self.discriminator = weights, None, None
        if weights.perceptual is not None:
            self.perceptual = PerceptualLoss(weights.perceptual).to(accelerator.device)
        if weights.adversarial is not None:
            self.lecam = LeCam(lambda value: accelerator.reduce(value, "mean"))
            self.discriminator = Discriminator(
                model.config.num_channels, weights.adversarial.hidden_channels, weights.adversarial.num_stages
            )
        super().__init__(recipe, model, accelerator)  # last: what an evaluation needs leaves first weights as they are

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """Reconstruction, quantiser, perceptual and adversarial loss of uint8 images (batch, 3, height, width)."""
        images = to_pixel_values(batch["pixels"])
        options: dict[str, Any] = self.kept_tokens(rng)
        if not self.has_codebook:
            options["generator"] = rng.generators(len(images))
        output = model(images, return_loss=True, return_dict=True, **options)
        if self.has_codebook:
            self.codes_of_step.append(output.codes)
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
            return discriminator_loss(discriminator, self.lecam, images, reconstructions, weight)

    def _model_loss(
        self,
        images: torch.Tensor,
        reconstructions: torch.Tensor,
        quantizer_loss: torch.Tensor,
        adversarial: AdversarialConfig | None,
    ) -> Scalars:
        config, parts = self.weights, Scalars()
        terms = {
            "reconstruction_loss": pixel_loss(reconstructions, images, config.reconstruction),
            "quantizer_loss": quantizer_loss.float(),
        }
        weights = {"reconstruction_loss": config.reconstruction_weight, "quantizer_loss": config.quantizer_weight}
        if self.perceptual is not None:
            parts = self.perceptual(reconstructions, images)
            terms["perceptual_loss"], weights["perceptual_loss"] = parts["perceptual_loss"], 1.0
        if adversarial is not None:
            terms["adversarial_loss"] = generator_adversarial_loss(self.discriminator, reconstructions)
            weights["adversarial_loss"] = adversarial.weight
        return parts | weighted_loss(terms, weights)

    def before_step(self, finite: torch.Tensor) -> None:
        super().before_step(finite)
        if self.discriminator is not None:
            self.lecam.step(finite)

    def reconstruct(self, images: torch.Tensor, generators: list[torch.Generator]) -> Reconstruction:
        """The model's own output; see the base class."""
        noise = {} if self.has_codebook else {"generator": generators}
        output = self.model(images, return_dict=True, **noise)
        return Reconstruction(output.pixel_values.float().clamp(0, 1), output.codes)

    def checkpointed(self) -> list[Any]:
        return super().checkpointed() + ([] if self.discriminator is None else [self.lecam])
