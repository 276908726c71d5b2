"""Trains a MaskGIT generator over the codes of a trained tokenizer (paper, section 3.3)."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset

from titok_hf.atomic_files import write_atomically
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler

from .configs import GeneratorRecipe
from .images import load_split, picture_of, to_pixel_values
from .loop import TrainingLoop, make_accelerator
from .losses import masked_token_loss, random_mask
from .recipes import RecipeError

_ENCODING_BATCH = 250
_IMAGES_A_CLASS = 8
_CLASSES_SHOWN = 16


class GeneratorTask:
    """A [`MaskGitTransformer1DModel`], the codes of the training images, and the masked-token loss."""

    def __init__(self, recipe: GeneratorRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        tokenizer = TiTokModel.from_pretrained(recipe.tokenizer)
        _check_tokenizer(tokenizer, recipe)
        tokenizer.to(accelerator.device).eval().requires_grad_(False)
        self.dataset, names = self._encoded(tokenizer, recipe.data.train_split)
        test_set, _ = self._encoded(tokenizer, recipe.data.test_split)
        self.test_codes, self.test_labels = (tensor[: recipe.cadence.num_test_images] for tensor in test_set.tensors)
        config = tokenizer.config
        self.model = MaskGitTransformer1DModel(
            codebook_size=config.codebook_size,
            num_latent_tokens=config.num_latent_tokens,
            num_classes=len(names),
            **recipe.model,
        )
        self.pipeline = TiTokPipeline(
            tokenizer=tokenizer,
            transformer=self.model,
            scheduler=MaskGitScheduler(mask_token_id=config.codebook_size, **recipe.sampler),
            image_processor=TiTokImageProcessorPil(
                size={"shortest_edge": config.image_size}, do_enlarge=recipe.data.resize_mode == "resize"
            ),
            id2label=dict(enumerate(names)),
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def loss(self, model: nn.Module, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Masked-token loss of codes (batch, num_latent_tokens) and labels (batch,)."""
        codes, labels = batch
        mask = random_mask(codes)
        dropped = torch.rand(len(labels), device=labels.device) < self.recipe.loss.class_dropout
        labels = labels.masked_fill(dropped, self.model.null_class_label)
        return self._masked_loss(model, codes, labels, mask)

    def after_step(self) -> None:
        pass

    def evaluate(self) -> tuple[dict[str, float], Image.Image]:
        """Loss and accuracy on hidden test codes, always the same ones; a picture with a row of images a class."""
        torch.manual_seed(0)
        mask = random_mask(self.test_codes)
        sums = {"loss": 0.0, "accuracy": 0.0}
        tensors = (self.test_codes, self.test_labels, mask)
        batches = list(zip(*(tensor.split(_ENCODING_BATCH) for tensor in tensors), strict=True))
        for batch in batches:
            codes, labels, hidden = (tensor.to(self.accelerator.device) for tensor in batch)
            for name, value in self._masked_loss(self.model, codes, labels, hidden).items():
                sums[name] += value.item() / len(batches)
        num_classes = min(self.model.config.num_classes, _CLASSES_SHOWN)
        images = self.pipeline(
            list(range(num_classes)),
            num_images_per_class=_IMAGES_A_CLASS,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        return sums, picture_of(images, _IMAGES_A_CLASS)

    def save(self, folder: Path) -> None:
        """The whole pipeline: tokenizer, generator, sampler with its settings, image processor, class names."""
        self.pipeline.save_pretrained(folder)

    def checkpointed(self) -> list[Any]:
        return []

    def _masked_loss(
        self, model: nn.Module, codes: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        logits = model(codes.masked_fill(mask, self.model.mask_token_id), class_labels=labels).logits
        weights = self.recipe.loss
        return masked_token_loss(logits, codes, mask, weights.label_smoothing, weights.unmasked_weight)

    def _encoded(self, tokenizer: TiTokModel, split: str) -> tuple[TensorDataset, list[str]]:
        """
        A split as codes (int64, shape (num_latent_tokens,)) and labels. They are computed once and kept in the run's
        folder, where a resumed run and the other processes find them.
        """
        dataset, names = load_split(self.recipe.data, split)
        file = Path(self.recipe.output_dir) / f"codes_{split}.safetensors"
        with self.accelerator.main_process_first():
            if not file.exists():
                codes = self._encode(tokenizer, dataset.tensors[0])
                write_atomically(file, lambda path: save_file({"codes": codes}, path))
            codes = load_file(file)["codes"]
        return TensorDataset(codes, dataset.tensors[1]), names

    @torch.inference_mode()
    def _encode(self, tokenizer: TiTokModel, images: torch.Tensor) -> torch.Tensor:
        batches = tqdm(images.split(_ENCODING_BATCH), desc="encoding", mininterval=5.0)
        codes = [tokenizer.encode(to_pixel_values(batch.to(tokenizer.device))).codes.cpu() for batch in batches]
        return torch.cat(codes)


def _check_tokenizer(tokenizer: TiTokModel, recipe: GeneratorRecipe) -> None:
    if tokenizer.config.quantizer != "vq":
        raise RecipeError(f"tokenizer {recipe.tokenizer} is a KL model; a generator needs one with a codebook.")
    if tokenizer.config.image_size != recipe.data.image_size:
        raise RecipeError(
            f"data.image_size is {recipe.data.image_size}, but tokenizer {recipe.tokenizer} takes "
            f"{tokenizer.config.image_size}. Make them equal."
        )


def train_generator(recipe: GeneratorRecipe) -> Path:
    """
    Trains, or resumes, a generator.

    Returns:
        the folder of a whole pipeline with averaged weights, for `TiTokPipeline.from_pretrained`.
    Raises:
        RecipeError: the recipe or its output folder can't be used.
        FloatingPointError: the loss stopped being finite.
    """
    accelerator = make_accelerator(recipe)
    return TrainingLoop(GeneratorTask(recipe, accelerator), recipe, accelerator).run()


__all__ = ["GeneratorTask", "train_generator"]
