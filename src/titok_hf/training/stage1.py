"""Stage 1 of the two-stage tokenizers: predict the codes of a MaskGIT-VQGAN (arXiv 2406.07550, section 3.3)."""

import torch
from accelerate import Accelerator
from torch import nn

from titok_hf.data.fingerprint import fingerprint
from titok_hf.data.loaders import ImageCodeLoader, ResumableLoader
from titok_hf.data.run_data import RunData
from titok_hf.data.training_data import check_codes, open_code_split, recorded_views
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel

from .configs import Stage1Recipe
from .images import errors_of_section, sampled_weights_digest, to_pixel_values
from .losses import proxy_code_loss
from .recipes import RecipeError
from .reconstruction import Reconstruction, ReconstructionTask
from .rng import StepRng
from .task import Batch, ModelLosses
from .tokenizer import load_model, tokenizer_config


class Stage1Task(ReconstructionTask):
    """
    A [`TiTokModel`] that ends in proxy codes, its images, and its teacher.

    Args:
        recipe: of this kind.
        accelerator: whose processes train together.
    Raises:
        RecipeError: model, teacher and data do not fit one another.
    """

    further_measures = ("proxy_code_loss", "accuracy")

    def __init__(self, recipe: Stage1Recipe, accelerator: Accelerator):
        self.teacher = load_model(MaskGitVQGANModel, recipe.teacher, "teacher").eval().requires_grad_(False)
        self.teacher.to(accelerator.device)
        super().__init__(recipe, self._make_model(recipe), accelerator)
        self.data_record["teacher"] = sampled_weights_digest(self.teacher)

    def _make_model(self, recipe: Stage1Recipe) -> TiTokModel:
        # A published two-stage variant describes the finished model; what stage 2 adds is not there yet.
        values = {"decoder_head": "proxy_codes", "proxy_codebook_size": self.teacher.config.codebook_size}
        values |= recipe.model | {"pixel_decoder": None}
        config = tokenizer_config(values, recipe.data.image_size)
        patch_size, factor = config.decoder_patch_size, self.teacher.config.downsample_factor
        if config.decoder_head != "proxy_codes" or config.proxy_codebook_size != self.teacher.config.codebook_size:
            raise RecipeError(
                f"The teacher {recipe.teacher} has {self.teacher.config.codebook_size} codes; the model must "
                "have decoder_head: proxy_codes and as many in proxy_codebook_size."
            )
        if patch_size != factor:
            raise RecipeError(
                f"A patch of the model has {patch_size} pixels a side, but a code of the teacher "
                f"{recipe.teacher} stands for {factor}. Set model.decoder_patch_size (or patch_size) to {factor}."
            )
        model = TiTokModel(config)
        model.set_attn_implementation(recipe.optimization.attn_implementation)
        return model

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """Cross-entropy of the teacher's codes of uint8 images, and the quantiser's loss."""
        images = to_pixel_values(batch["pixels"])
        codes = batch["codes"] if "codes" in batch else self._teach(images)
        output = model(images, return_loss=True, return_dict=True, **self.kept_tokens(rng))
        self.codes_of_step.append(output.codes)
        cross_entropy = proxy_code_loss(output.logits, codes)
        loss = cross_entropy + self.recipe.loss.quantizer_weight * output.loss.float()
        accuracy = (output.logits.argmax(dim=-1) == codes).float().mean()
        return ModelLosses(
            {"loss": loss, "proxy_code_loss": cross_entropy, "quantizer_loss": output.loss, "accuracy": accuracy}
        )

    def reconstruct(self, images: torch.Tensor, generators: list[torch.Generator]) -> Reconstruction:
        """What the teacher decodes from the likeliest codes; their loss and accuracy."""
        output = self.model(images, return_dict=True)
        codes, likeliest = self._teach(images), output.logits.argmax(dim=-1)
        decoded = self.teacher.decode(codes=likeliest, return_dict=True).pixel_values
        measures = {
            "proxy_code_loss": proxy_code_loss(output.logits, codes),
            "accuracy": (likeliest == codes).float().mean(),
        }
        return Reconstruction(decoded.clamp(0, 1), output.codes, measures)

    @torch.no_grad()
    def _teach(self, images: torch.Tensor) -> torch.Tensor:
        """The teacher's codes, in float32: the same that `pretokenize` writes."""
        return self.teacher.encode(images, return_dict=True).codes

    def make_loader(self, opened: RunData) -> ResumableLoader:
        """Images alone, which the teacher encodes, or images with their codes."""
        data, optimization = self.data, self.recipe.optimization
        if data.codes is None:
            return opened.loader
        num_patches = (data.image_size // self.teacher.config.downsample_factor) ** 2
        if data.random_crop or data.horizontal_flip:
            raise RecipeError(
                "data.codes belong to the crops that were encoded, which data.random_crop and data.horizontal_flip "
                "would change. Leave both out, and choose the views with `titok-hf pretokenize --views`."
            )
        if data.test_split is None:
            raise RecipeError(
                "data.codes hold the whole training split, from which no test images can be held out. Name a "
                "data.test_split."
            )
        with errors_of_section("data.codes"):
            opened_codes = open_code_split(data.codes, data.train_split)
            codes = opened_codes.dataset
            if "label" in codes.features:
                codes = codes.remove_columns("label")  # this kind of run does not need them
            self.data_record["data.codes"] = fingerprint(codes, opened_codes.digest)
            check_codes(codes, self.teacher.config.codebook_size, num_patches)
            views = recorded_views(data.codes, data.train_split)
            if views.image_size != data.image_size:
                raise ValueError(f"{data.codes} was made of crops of {views.image_size} pixels.")
            loader = ImageCodeLoader(
                opened.splits.train,
                codes,
                views,
                optimization.batch_size,
                seed=self.recipe.seed,
                workers=data.num_workers,
                skip_broken=data.broken_images == "skip",
            )
            loader.check_global_batch()
        return loader
