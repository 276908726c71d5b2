"""Trains a MaskGIT generator over the codes of a trained tokenizer (arXiv 2406.07550, section 3.3)."""

import itertools
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from transformers.utils import cached_file

from titok_hf.data.run_data import RunData, open_code_data, open_image_data
from titok_hf.devices import moved_without_wait
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.npz import NpzFile, check_reference
from titok_hf.evaluation.sweep import SettingMeter, setting_of
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler, mask_ratio, num_masked

from .configs import CodeDataConfig, GeneratorRecipe, ImageDataConfig
from .images import (
    errors_of_section,
    image_processor,
    sampled_weights_digest,
    sheet_of,
    to_pixel_values,
)
from .lora import LoraAdapter, load_pipeline
from .losses import masked_token_loss
from .recipes import RecipeError
from .rng import StepRng
from .task import Batch, ModelLosses, Task
from .tokenizer import load_model

_ENCODING_BATCH = 250
_TESTED_BATCH = 50  # small enough that many processes have a share of the test codes
_IMAGES_A_CLASS = 8
_CLASSES_SHOWN = 16
_LABEL_LENGTH = 24
_GENERATED_BATCH = 100


class GeneratorTask(Task):
    """
    A [`MaskGitTransformer1DModel`], codes (or images that the tokenizer encodes), and the masked-token loss.

    Args:
        recipe: of this kind.
        accelerator: whose processes train together.
    Raises:
        RecipeError: tokenizer, data, model and sampler do not fit one another, the data have no labels, or the adapter
            of `lora` does not fit the pipeline of `init_from`.
    """

    def __init__(self, recipe: GeneratorRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        trained = None if recipe.lora is None else load_pipeline(recipe.init_from or "")
        self.tokenizer = (
            load_model(TiTokModel, recipe.tokenizer or "", "tokenizer") if trained is None else trained.tokenizer
        )
        if not self.tokenizer.config.has_codebook:
            raise RecipeError(f"tokenizer {recipe.tokenizer} is a KL model; a generator needs one with a codebook.")
        self.tokenizer.to(accelerator.device).eval().requires_grad_(False)
        if recipe.codes is not None:
            opened = self._open_codes(recipe.codes)
            self.test_codes, images = opened.test, None
        else:
            assert recipe.data is not None  # the recipe has exactly one of the two
            opened = self._open_images(recipe.data)
            images = opened.test
            self.test_codes = torch.cat([self._encode(batch).cpu() for batch in images.split(_ENCODING_BATCH)])
        names, test_labels = opened.splits.class_names, opened.test_labels
        assert names is not None and test_labels is not None  # the data are opened with labels
        self.loader, self.test_labels = opened.loader, test_labels
        self.data_record = opened.splits.record | {"tokenizer": sampled_weights_digest(self.tokenizer)}
        self.adapter, self.labels = None, torch.arange(len(names))
        if trained is None:
            self.model = self._make_model(len(names)).to(accelerator.device)
            self.pipeline = self._make_pipeline(names)
        else:
            self.data_record["transformer"] = sampled_weights_digest(trained.transformer)
            assert recipe.lora is not None
            self.adapter = LoraAdapter(trained, names, recipe.lora)
            self.labels, self.pipeline = self.adapter.labels, trained
            self.model = trained.transformer.to(accelerator.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.test_labels, self.labels = self.labels[self.test_labels], self.labels.to(accelerator.device)
        self.meter = None
        if recipe.intervals.frechet_network is not None:
            self.meter = self._make_meter(recipe.intervals.frechet_network, images)
            self.best = ("frechet_distance", False)

    def _open_codes(self, data: CodeDataConfig) -> RunData:
        """Precomputed codes."""
        config, recipe = self.tokenizer.config, self.recipe
        with errors_of_section("codes"):
            return open_code_data(
                data,
                recipe.intervals.num_test_images,
                recipe.optimization.batch_size,
                config.codebook_size,
                config.num_latent_tokens,
                recipe.seed,
            )

    def _open_images(self, data: ImageDataConfig) -> RunData:
        """Images, which are encoded batch by batch."""
        if self.tokenizer.config.image_size != data.image_size:
            source = self.recipe.tokenizer or self.recipe.init_from
            raise RecipeError(
                f"data.image_size is {data.image_size}, but tokenizer {source} takes "
                f"{self.tokenizer.config.image_size}. Make them equal."
            )
        num_test, batch_size = self.recipe.intervals.num_test_images, self.recipe.optimization.batch_size
        with errors_of_section("data"):
            return open_image_data(data, num_test, batch_size, self.recipe.seed, with_labels=True)

    def _make_model(self, num_classes: int) -> MaskGitTransformer1DModel:
        config = self.tokenizer.config
        try:
            return MaskGitTransformer1DModel(
                codebook_size=config.codebook_size,
                num_latent_tokens=config.num_latent_tokens,
                num_classes=num_classes,
                **(self.recipe.model or {}),
            )
        except (TypeError, ValueError) as error:
            raise RecipeError(f"model: {error}") from error

    def _make_pipeline(self, names: list[str]) -> TiTokPipeline:
        config = self.tokenizer.config
        try:
            scheduler = MaskGitScheduler(mask_token_id=config.codebook_size, **self.recipe.sampler)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"sampler: {error}") from error
        pipeline = TiTokPipeline(
            tokenizer=self.tokenizer,
            transformer=self.model,
            scheduler=scheduler,
            image_processor=self._image_processor(),
            id2label=dict(enumerate(names)),
        )
        return pipeline

    def _make_meter(self, network: str, images: torch.Tensor | None) -> SettingMeter:
        """Measures generated images, against a reference file or uint8 test images; each process takes its share."""
        accelerator, reference = self.accelerator, self.recipe.frechet_reference
        with errors_of_section("intervals.frechet_network"):
            distance = FrechetDistance(network, accelerator.device)
        if images is None and reference is None:
            raise RecipeError(
                "intervals.frechet_network compares generated images with real ones, but a recipe with codes has no "
                "images. Name an npz file in frechet_reference, or leave the network out."
            )
        batches = iter(()) if images is None else iter(images.split(_GENERATED_BATCH))
        if reference is not None:
            try:
                file = NpzFile.open(reference)
                check_reference(file, (self.tokenizer.config.image_size,) * 2, "images", distance.network)
                if file.has_statistics and distance.network.is_inception:
                    distance.compare_with(file.statistics()[0])
                    batches = iter(())
                else:
                    batches = file.batches(_GENERATED_BATCH)
            except (OSError, ValueError) as error:
                raise RecipeError(f"frechet_reference: {error}") from error
        rank, world_size = accelerator.process_index, accelerator.num_processes
        for batch in itertools.islice(batches, rank, None, world_size):
            distance.update(to_pixel_values(batch), real=True)
        num_images, sharing = self.recipe.intervals.num_test_images, {"rank": rank, "world_size": world_size}
        with errors_of_section("intervals.num_test_images"):
            return SettingMeter(self.pipeline, distance, num_images, batch_size=_GENERATED_BATCH, **sharing)

    def _image_processor(self) -> TiTokImageProcessorPil:
        """That of the tokenizer if it was saved with one, else one by the recipe."""
        source, data = self.recipe.tokenizer or "", self.recipe.data
        if cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is not None:
            return TiTokImageProcessorPil.from_pretrained(source)
        return image_processor(self.tokenizer.config.image_size, "resize" if data is None else data.resize_mode)

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """Masked-token loss of codes (batch, num_latent_tokens) and labels (batch,)."""
        labels = self.labels[batch["label"]]
        codes = batch["codes"] if "codes" in batch else self._encode(batch["pixels"])
        shares = self._mask_shares(rng.draw(len(codes)))  # of the global batch, so no exchange is needed
        mask = self._mask(codes, rng.own(shares), rng.uniform(*codes.shape))
        dropped = rng.uniform(len(labels)) < self.recipe.loss.class_dropout
        labels = labels.masked_fill(dropped, self.model.null_class_label)
        mean_masked = num_masked(shares, codes.shape[1]).sum() / rng.num_shares
        return ModelLosses(self._masked_loss(model, codes, labels, mask, self._sum_of_weights(mean_masked, codes)))

    def _mask_shares(self, progress: torch.Tensor) -> torch.Tensor:
        """The shares of tokens to mask, in (0, 1], by the sampler's schedule, given uniform draws in [0, 1)."""
        return mask_ratio(progress, self.pipeline.scheduler.config.mask_schedule).clamp(1e-6, 1)

    def _mask(self, codes: torch.Tensor, shares: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """
        Which tokens are masked: bool, shape of `codes`.

        Args:
            codes: int64, shape (batch, num_latent_tokens).
            shares: share of tokens to mask in each example, shape (batch,).
            order: uniform draws that choose the positions, shape of `codes`.
        """
        scheduler = self.pipeline.scheduler
        shares = moved_without_wait(shares, codes.device)
        return scheduler.add_noise(codes, shares, noise=order.to(codes.device)) == scheduler.config.mask_token_id

    def evaluate(self) -> tuple[dict[str, float], Image.Image | None]:
        """
        Loss and accuracy on masked test codes, with the same masks each time, and the Frechet distance of generated
        images, of which each process computes its share; generated images, a row a class.
        """
        measures = self._test_losses()
        if self.meter is not None:
            measures["frechet_distance"] = self.meter(setting_of(self.pipeline.scheduler)).distance
        return measures, self._generated_sheet() if self.accelerator.is_main_process else None

    def _test_losses(self) -> dict[str, float]:
        """Means over all test codes; each process computes some of the batches."""
        draws = torch.Generator().manual_seed(0)
        shape = self.test_codes.shape
        shares = self._mask_shares(torch.rand(shape[0], generator=draws))
        mask = self._mask(self.test_codes, shares, torch.rand(shape, generator=draws))
        tensors = (self.test_codes, self.test_labels, mask)
        batches = list(zip(*(tensor.split(_TESTED_BATCH) for tensor in tensors), strict=True))
        sums = torch.zeros(
            2, len(batches), dtype=torch.float64
        )  # an entry a batch: equal sums in any number of shares
        for number in range(self.accelerator.process_index, len(batches), self.accelerator.num_processes):
            codes, labels, masked = (tensor.to(self.accelerator.device) for tensor in batches[number])
            share = len(codes) / shape[0]
            sum_of_weights = self._sum_of_weights(mask.sum() * share, codes)
            losses = self._masked_loss(self.model, codes, labels, masked, sum_of_weights)
            sums[:, number] = share * torch.stack([losses["loss"], losses["accuracy"]]).cpu()
        loss, accuracy = self.sum_over_processes(sums).sum(dim=1).tolist()
        return {"loss": loss, "accuracy": accuracy}

    def _generated_sheet(self) -> Image.Image:
        """Images of the first classes, a row a class; the same random numbers each time."""
        classes = self.labels[:_CLASSES_SHOWN].tolist()
        images = self.pipeline(
            classes,
            num_images_per_class=_IMAGES_A_CLASS,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        # The first of several synonyms.
        labels = [self.pipeline.id2label.get(label, str(label)).partition(",")[0][:_LABEL_LENGTH] for label in classes]
        return sheet_of(images, _IMAGES_A_CLASS, labels)

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """
        The whole pipeline: tokenizer, generator, sampler with its settings, image processor, class names. With `lora`
        the adapter alone.
        """
        if self.adapter is not None:
            self.adapter.save(folder, weights)
            return
        with torch.device("meta"):
            transformer = MaskGitTransformer1DModel.from_config(self.model.config)
        transformer.load_state_dict(weights, assign=True)
        components = self.pipeline.components | {"transformer": transformer}
        TiTokPipeline(**components, id2label=self.pipeline.config.id2label).save_pretrained(folder)

    def _masked_loss(
        self,
        model: nn.Module,
        codes: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor,
        sum_of_weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The loss of a share of a batch; for `sum_of_weights` see `masked_token_loss`."""
        logits = model(codes.masked_fill(mask, self.model.mask_token_id), class_labels=labels).logits
        weights = self.recipe.loss
        return masked_token_loss(logits, codes, mask, weights.label_smoothing, weights.unmasked_weight, sum_of_weights)

    def _sum_of_weights(self, num_masked: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The sum of the weights of the tokens of a batch, of which `num_masked` are masked; on their device."""
        weight = self.recipe.loss.unmasked_weight
        return moved_without_wait(weight * codes.numel() + (1 - weight) * num_masked, codes.device)

    @torch.no_grad()
    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 images to codes, on the device and in float32: the same that `pretokenize` writes."""
        return self.tokenizer.encode(to_pixel_values(pixels.to(self.accelerator.device)), return_dict=True).codes
