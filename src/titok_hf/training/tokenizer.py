"""Trains a tokenizer end to end on pixels (the single-stage recipe of arXiv 2501.07730)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import nn

from titok_hf.configuration_titok import TiTokConfig
from titok_hf.evaluation.reconstruction import CodebookUsage, ReconstructionMeter, count_codes
from titok_hf.modeling_titok import TiTokModel

from .codebook import CodebookReinitializer
from .configs import TokenizerRecipe
from .images import flip_half, load_split, picture_of, to_pixel_values
from .loop import TrainingLoop, make_accelerator
from .perceptual import PerceptualLoss
from .recipes import RecipeError

_EVALUATION_BATCH = 100
_PICTURE_COLUMNS = 16


class TokenizerTask:
    """A [`TiTokModel`] with pixel head, its images, and the loss reconstruction + perceptual + quantiser."""

    def __init__(self, recipe: TokenizerRecipe, accelerator: Accelerator):
        self.recipe = recipe
        self.device = accelerator.device
        self.model = TiTokModel(tokenizer_config(recipe))
        self.model.set_attn_implementation(recipe.optimization.attn_implementation)
        self.dataset, _ = load_split(recipe.data, recipe.data.train_split)
        test_set, _ = load_split(recipe.data, recipe.data.test_split)
        self.test_images = test_set.tensors[0][: recipe.cadence.num_test_images]
        self.perceptual = None
        if recipe.loss.perceptual is not None:
            self.perceptual = PerceptualLoss(recipe.loss.perceptual).to(self.device)
        self.reinitializer = None
        if recipe.loss.reinitialize_codes and self.model.config.quantizer == "vq":
            self.model.to(self.device)
            self.reinitializer = CodebookReinitializer(self.model.quantizer, accelerator)

    def loss(self, model: nn.Module, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Reconstruction + perceptual + quantiser loss of uint8 images of shape (batch, 3, image_size, image_size)."""
        weights = self.recipe.loss
        images = to_pixel_values(batch[0])
        if self.recipe.data.horizontal_flip:
            images = flip_half(images)
        output = model(images, return_loss=True)
        scalars = {
            "reconstruction_loss": F.mse_loss(output.pixel_values.float(), images),
            "quantizer_loss": output.loss,
        }
        scalars["loss"] = (
            weights.reconstruction_weight * scalars["reconstruction_loss"]
            + weights.quantizer_weight * scalars["quantizer_loss"]
        )
        if self.perceptual is not None:
            scalars["perceptual_loss"] = self.perceptual(output.pixel_values, images)
            scalars["loss"] = scalars["loss"] + scalars["perceptual_loss"]
        return scalars

    def after_step(self) -> None:
        if self.reinitializer is not None:
            self.reinitializer.step()

    def evaluate(self) -> tuple[dict[str, float], Image.Image]:
        """PSNR, SSIM and codebook usage on test images; a picture of originals above their reconstructions."""
        meter, histogram = ReconstructionMeter(), torch.zeros(self.model.config.codebook_size, dtype=torch.int64)
        shown: list[torch.Tensor] = []
        for batch in self.test_images.split(_EVALUATION_BATCH):
            images = to_pixel_values(batch.to(self.device))
            output = self.model(images, sample_posterior=False)
            reconstructions = output.pixel_values.clamp(0, 1)
            meter.update(reconstructions, images)
            if output.codes is not None:
                histogram += count_codes(output.codes, self.model.config.codebook_size)
            if not shown:
                shown = [images[:64], reconstructions[:64]]
        measures = meter.compute()
        if histogram.any():
            usage = CodebookUsage.from_histogram(histogram)
            measures |= {"codes_used": usage.num_used, "codebook_perplexity": usage.perplexity}
        rows = [row for pair in zip(*(part.split(_PICTURE_COLUMNS) for part in shown), strict=True) for row in pair]
        return measures, picture_of(torch.cat(rows), _PICTURE_COLUMNS)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def checkpointed(self) -> list[Any]:
        return [] if self.reinitializer is None else [self.reinitializer]


def tokenizer_config(recipe: TokenizerRecipe) -> TiTokConfig:
    """
    The model's configuration: a published variant where `model.variant` names one, with the other fields on top.

    Raises:
        RecipeError: the images' size is not the model's, or the model does not predict pixels.
    """
    fields = dict(recipe.model)
    fields.setdefault("image_size", recipe.data.image_size)
    variant = fields.pop("variant", None)
    unknown = set(fields) - set(TiTokConfig().to_dict())
    if unknown:
        raise RecipeError(f"model.{min(unknown)} is not a field of TiTokConfig.")
    try:
        config = TiTokConfig(**fields) if variant is None else TiTokConfig.from_variant(variant, **fields)
    except (StrictDataclassError, ValueError) as error:
        raise RecipeError(f"model: {error.__cause__ or error}") from error
    if config.image_size != recipe.data.image_size:
        raise RecipeError(
            f"data.image_size is {recipe.data.image_size}, but the model's is {config.image_size}. Make them equal."
        )
    if config.decoder_head != "pixels":
        raise RecipeError('model.decoder_head is "proxy_codes"; this trainer makes models with decoder_head: pixels.')
    return config


def train_tokenizer(recipe: TokenizerRecipe) -> Path:
    """
    Trains, or resumes, a tokenizer.

    Returns:
        the folder of the model with averaged weights, for `TiTokModel.from_pretrained`.
    Raises:
        RecipeError: the recipe or its output folder can't be used.
        FloatingPointError: the loss stopped being finite.
    """
    accelerator = make_accelerator(recipe)
    return TrainingLoop(TokenizerTask(recipe, accelerator), recipe, accelerator).run()


__all__ = ["TokenizerTask", "tokenizer_config", "train_tokenizer"]
