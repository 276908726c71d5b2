"""Stage 1 of the two-stage tokenizers: predict the codes of a MaskGIT-VQGAN (arXiv 2406.07550, section 3.3)."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from PIL import Image
from torch import nn

from titok_hf.data.fingerprint import fingerprint
from titok_hf.data.loaders import ImageCodeLoader
from titok_hf.data.run_data import open_image_data
from titok_hf.data.training_data import check_codes, open_code_split, recorded_views
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel

from .codebook import CodebookCounter, CodebookReinitializer, trains_codebook
from .configs import Stage1Recipe
from .images import (
    errors_of_section,
    image_processor,
    picture_of_pairs,
    to_pixel_values,
    weights_digest,
)
from .losses import proxy_code_loss
from .measures import ReconstructionMeasures
from .recipes import RecipeError
from .rng import StepRng
from .task import Batch, ModelLosses, Task
from .tokenizer import load_model, tokenizer_config

_IMAGES_SHOWN = 64


class Stage1Task(Task):
    """
    A [`TiTokModel`] that ends in proxy codes, its images, and its teacher.

    Args:
        recipe: of this kind.
        accelerator: whose processes train together.
    Raises:
        RecipeError: model, teacher and data do not fit one another.
    """

    def __init__(self, recipe: Stage1Recipe, accelerator: Accelerator):
        self.recipe, self.data, self.accelerator = recipe, recipe.data, accelerator
        self.teacher = load_model(MaskGitVQGANModel, recipe.teacher, "teacher").eval().requires_grad_(False)
        self.teacher.to(accelerator.device)
        self.model = self._make_model().to(accelerator.device)
        num_test, batch_size = recipe.intervals.num_test_images, recipe.optimization.batch_size
        with errors_of_section("data"):
            opened = open_image_data(self.data, num_test, batch_size, recipe.seed)
        self.test_images = opened.test
        self.data_record = opened.splits.record | {"teacher": weights_digest(self.teacher)}
        self.loader = opened.loader if self.data.codes is None else self._loader_with_codes(opened.splits.train)
        codebook_size = self.model.config.codebook_size
        self.measures = ReconstructionMeasures(accelerator, codebook_size, recipe.intervals.frechet_network)
        self.best = self.measures.best
        self.counter = CodebookCounter(codebook_size, accelerator)
        self.reinitializer = None
        if recipe.loss.reinitialize_codes and trains_codebook(self.model.quantizer):
            self.reinitializer = CodebookReinitializer(self.model.quantizer, accelerator)

    def _make_model(self) -> TiTokModel:
        # A published two-stage variant describes the finished model; what stage 2 adds is not there yet.
        values = {"decoder_head": "proxy_codes", "proxy_codebook_size": self.teacher.config.codebook_size}
        values |= self.recipe.model | {"pixel_decoder": None}
        config = tokenizer_config(values, self.data.image_size)
        patch_size, factor = config.decoder_patch_size, self.teacher.config.downsample_factor
        if config.decoder_head != "proxy_codes" or config.proxy_codebook_size != self.teacher.config.codebook_size:
            raise RecipeError(
                f"The teacher {self.recipe.teacher} has {self.teacher.config.codebook_size} codes; the model must "
                "have decoder_head: proxy_codes and as many in proxy_codebook_size."
            )
        if patch_size != factor:
            raise RecipeError(
                f"A patch of the model has {patch_size} pixels a side, but a code of the teacher "
                f"{self.recipe.teacher} stands for {factor}. Set model.decoder_patch_size (or patch_size) to {factor}."
            )
        model = TiTokModel(config)
        model.set_attn_implementation(self.recipe.optimization.attn_implementation)
        return model

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """Cross-entropy of the teacher's codes of uint8 images, and the quantiser's loss."""
        images = to_pixel_values(batch["pixels"])
        codes = batch["codes"] if "codes" in batch else self._teach(images)
        output = model(images, return_loss=True, return_dict=True)
        self.counter.update(output.codes)
        cross_entropy = proxy_code_loss(output.logits, codes)
        loss = cross_entropy + self.recipe.loss.quantizer_weight * output.loss.float()
        accuracy = (output.logits.argmax(dim=-1) == codes).float().mean()
        return ModelLosses(
            {"loss": loss, "proxy_code_loss": cross_entropy, "quantizer_loss": output.loss, "accuracy": accuracy}
        )

    def before_step(self) -> None:
        if self.reinitializer is not None:
            self.reinitializer.step()

    def summary(self) -> dict[str, float]:
        """How many entries of the codebook are used, and how evenly."""
        return self.counter.compute()

    def evaluate(self) -> tuple[dict[str, float], Image.Image]:
        """
        Loss and accuracy of the codes, and PSNR, SSIM and Frechet distance of what the teacher decodes from the
        likeliest ones, on test images, of which each process takes its share; a picture of originals above their
        reconstructions.
        """
        self.measures.reset()
        sums = torch.zeros(3, dtype=torch.float64)  # of loss, accuracy, images
        for batch in self.measures.own_batches(self.test_images):
            images, reconstructions, output = self._reconstruct(batch)
            self.measures.update(images, reconstructions, output.codes)
            codes = self._teach(images)
            accuracy = (output.logits.argmax(dim=-1) == codes).float().mean()
            of_images = torch.stack([proxy_code_loss(output.logits, codes), accuracy, torch.ones_like(accuracy)])
            sums += len(images) * of_images.cpu()
        loss, accuracy, num_images = self.measures.sum_over_processes(sums).tolist()
        measures = {"proxy_code_loss": loss / num_images, "accuracy": accuracy / num_images}
        picture = picture_of_pairs(*self._reconstruct(self.test_images[:_IMAGES_SHOWN])[:2])
        return measures | self.measures.compute(), picture

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=weights)
        image_processor(self.data.image_size, self.data.resize_mode).save_pretrained(folder)

    def checkpointed(self) -> list[Any]:
        return [self.counter] if self.reinitializer is None else [self.counter, self.reinitializer]

    @torch.no_grad()
    def _teach(self, images: torch.Tensor) -> torch.Tensor:
        """The teacher's codes, in float32: the same that `pretokenize` writes."""
        return self.teacher.encode(images, return_dict=True).codes

    def _reconstruct(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        images = to_pixel_values(batch.to(self.accelerator.device))
        output = self.model(images, return_dict=True)
        decoded = self.teacher.decode(codes=output.logits.argmax(dim=-1), return_dict=True)
        return images, decoded.pixel_values.clamp(0, 1), output

    def _loader_with_codes(self, images: Dataset | IterableDataset) -> ImageCodeLoader:
        """Batches of images with the codes that the teacher gave them beforehand."""
        data = self.data
        assert data.codes is not None
        num_patches = (data.image_size // self.teacher.config.downsample_factor) ** 2
        if data.random_crop or data.horizontal_flip:
            raise RecipeError(
                "data.codes belong to the squares that were encoded, which data.random_crop and data.horizontal_flip "
                "would change. Leave both out, and choose the views with `titok-hf pretokenize --views`."
            )
        if data.test_split is None:
            raise RecipeError(
                "data.codes hold the whole training split, from which no test images can be held out. Name a "
                "data.test_split."
            )
        with errors_of_section("data.codes"):
            opened = open_code_split(data.codes, data.train_split)
            codes = opened.dataset
            if "label" in codes.features:
                codes = codes.remove_columns("label")  # this kind of run has no use for them
            self.data_record["data.codes"] = fingerprint(codes, opened.digest)
            check_codes(codes, self.teacher.config.codebook_size, num_patches)
            views = recorded_views(data.codes, data.train_split)
            if views.image_size != data.image_size:
                raise ValueError(f"{data.codes} was made of squares of {views.image_size} pixels.")
            loader = ImageCodeLoader(
                images,
                codes,
                views,
                self.recipe.optimization.batch_size,
                seed=self.recipe.seed,
                workers=data.num_workers,
                skip_broken=data.broken_images == "skip",
            )
            loader.check_global_batch()
        return loader
