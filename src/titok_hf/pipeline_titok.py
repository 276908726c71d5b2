"""TiTokPipeline: class label -> image, image -> codes -> image, and images changed through their codes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline

# diffusers finds the loader of a component by the name of its base class, in the component's module.
from diffusers import ModelMixin as ModelMixin
from diffusers import SchedulerMixin as SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from transformers import ImageProcessingMixin as ImageProcessingMixin
from transformers import PreTrainedModel as PreTrainedModel
from transformers.utils import is_torchvision_available

from . import __version__
from .accepted_values import check_finite, check_pixel_range
from .checkpoints.layout import VERSION_KEY
from .checkpoints.lora_mixin import LoraMixin
from .checkpoints.pipeline_mixin import PipelineCheckpointMixin
from .class_names import IMAGENET_CLASSES, ClassLabels, ClassNames, imagenet_id2label
from .cpu_optimizations import CpuOptimizationsMixin
from .editing.pipeline_mixin import EditingMixin
from .image_processing_pil_titok import TiTokImageProcessorPil
from .image_processing_titok import TiTokImageProcessor
from .modeling_maskgit import MaskGitTransformer1DModel
from .modeling_titok import TiTokModel
from .offloading import onloaded
from .pipeline_inputs import (
    CALLBACK_TENSORS,
    Generators,
    Images,
    StepCallback,
    Tokens,
    batches_of,
    check_output_type,
    check_parts,
    checked_generators,
    checked_tokens,
    list_of_images,
    tensors_of_callback,
)
from .pipeline_sampling import (
    GuidedLogits,
    check_guiding,
    inputs_of_call,
    masked_at_start,
    sample,
    scheduler_of_call,
)
from .scheduling_maskgit import MaskGitScheduler

OutputType = Literal["pil", "np", "pt"]


@dataclass
class TiTokPipelineOutput(BaseOutput):
    """
    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): the images: RGB; or float in [0, 1] of
            shape (batch, height, width, 3) for `"np"`, (batch, 3, height, width) for `"pt"`; the codes for `"latent"`.
        codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`): the codes of the images.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    codes: torch.Tensor


class TiTokPipeline(CpuOptimizationsMixin, PipelineCheckpointMixin, LoraMixin, EditingMixin, DiffusionPipeline):
    """
    Images from class labels (TiTok, arXiv 2406.07550, section 3.3), images to codes and back, and images changed
    through their codes. Without `transformer` and `scheduler`, only `encode`, `decode` and `reconstruct` work.

    Args:
        tokenizer: images to tokens and back.
        image_processor: images of any size to the tokenizer's input, and its output to images.
        transformer: predicts masked codes, given a class.
        scheduler: the sampler, whose configuration has the default settings of a call.
        id2label: names of the classes. Synonyms are separated by commas, as in ImageNet ("tench, Tinca tinca").

    Raises:
        ValueError: parts that do not fit one another.

    Example:
        >>> pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
        >>> image = pipe("Sneaker", generator=torch.Generator().manual_seed(0)).images[0]
    """

    parts_module = __name__
    image_processor_class = TiTokImageProcessor if is_torchvision_available() else TiTokImageProcessorPil
    model_cpu_offload_seq = "transformer->tokenizer"
    _optional_components = ["transformer", "scheduler"]
    _callback_tensor_inputs = list(CALLBACK_TENSORS)
    _interrupt = False

    def __init__(
        self,
        tokenizer: TiTokModel,
        image_processor: TiTokImageProcessor | TiTokImageProcessorPil,
        transformer: MaskGitTransformer1DModel | None = None,
        scheduler: MaskGitScheduler | None = None,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, image_processor=image_processor, transformer=transformer, scheduler=scheduler
        )
        # JSON has no integer keys: a saved mapping has strings.
        self.id2label = {int(label): name for label, name in (id2label or {}).items()}
        self.register_to_config(id2label=self.id2label or None, **{VERSION_KEY: __version__})
        check_parts(tokenizer, transformer, scheduler)

    @classmethod
    def from_original(
        cls,
        tokenizer: str | os.PathLike,
        generator: str | os.PathLike | None = None,
        original_variant: str | None = None,
        **kwargs: Any,
    ) -> TiTokPipeline:
        """
        A pipeline of checkpoints of the original implementation, with the sampler settings of its published benchmark.

        Args:
            tokenizer, generator: each a folder, a Hub id or a single weights file of the original. Without a generator
                the pipeline has a tokenizer only.
            original_variant: name of the released checkpoints, such as `"l32"`; needed for single files.
            kwargs: `dtype`, and arguments of the download: `cache_dir`, `force_download`, `local_files_only`, `token`,
                `revision`.

        Raises:
            OSError: no checkpoint there, a damaged file, or a pickle that holds more than tensors.
            ValueError: checkpoints of another architecture, or that do not fit one another.
        """
        named = {"original_variant": original_variant}
        model = TiTokModel.from_pretrained(tokenizer, **named, **kwargs)
        image_processor = cls.image_processor_class(size=model.config.image_size)
        if generator is None:
            return cls(model, image_processor)
        transformer = MaskGitTransformer1DModel.from_pretrained(generator, **named, **kwargs)
        download = {name: value for name, value in kwargs.items() if name not in ("dtype", "torch_dtype")}
        scheduler = MaskGitScheduler.from_pretrained(generator, **named, **download)
        id2label = imagenet_id2label() if transformer.config.num_classes == IMAGENET_CLASSES else None
        return cls(model, image_processor, transformer, scheduler, id2label)

    @property
    def classes(self) -> ClassNames:
        """The classes that the generator knows, by number and by name."""
        self._check_can_generate()
        return ClassNames(self.id2label, self.transformer.config.num_classes)

    def get_label_ids(self, class_labels: ClassLabels) -> list[int]:
        """Numbers of classes that are given by number or by name; see [`ClassNames.label_ids`]."""
        return self.classes.label_ids(class_labels)

    def preprocess(self, images: Images) -> torch.Tensor:
        """
        Images of any size to the tokenizer's input.

        Args:
            images: one or several, as [`TiTokImageProcessor`] takes them: PIL images, arrays, tensors, paths or URLs.
                Float tensors of the tokenizer's shape, (3, image_size, image_size) or a batch of it, with values in
                [0, 1] are used as they are; all others are rounded to 8 bits.

        Returns:
            pixel values, float32 in [0, 1], shape (batch, 3, image_size, image_size).

        Raises:
            ValueError, TypeError: no images, something that is not an image, or values outside of the range of their
                type: floats in [0, 1], integers in [0, 255], uint16 up to 65535.
            FileNotFoundError: a path that does not exist.
        """
        single = list_of_images(images)
        others = [image for image in single if not self._is_prepared(image)]
        if len(others) == len(single):
            return self.image_processor(single, return_tensors="pt").pixel_values
        if not others:
            pixel_values = torch.stack([image.float() for image in single])
        else:
            processed = iter(self.image_processor(others, return_tensors="pt").pixel_values.cpu())
            pixel_values = torch.stack(
                [image.float().cpu() if self._is_prepared(image) else next(processed) for image in single]
            )
        check_pixel_range(pixel_values, "images")
        return pixel_values

    def _is_prepared(self, image: Any) -> bool:
        config = self.tokenizer.config
        shape = (config.num_channels, config.image_size, config.image_size)
        return isinstance(image, torch.Tensor) and image.is_floating_point() and image.shape == shape

    @torch.no_grad()
    def encode(
        self,
        images: Images,
        batch_size: int = 32,
        generator: Generators | None = None,
        num_tokens: int | None = None,
    ) -> torch.Tensor:
        """
        Images to tokens.

        Args:
            images: as for `preprocess`.
            batch_size: number of images that are encoded at once; results do not depend on it.
            generator: for KL tokenizers, the source of a sample (a list has one for each image); without one, tokens
                are the mean. VQ tokenizers use no random numbers.
            num_tokens: how many of the first tokens are kept, for tokenizers trained with tail drop; None keeps all.

        Returns:
            codes, int64, shape (batch, num_latent_tokens); for KL tokenizers latents, float, shape
            (batch, num_latent_tokens, codebook_dim). On the device of the pipeline.

        Raises:
            ValueError: as `preprocess`; a `num_tokens` that the tokenizer cannot decode; or the encoder's output is
                not finite.
        """
        single = list_of_images(images)
        generators = checked_generators(generator, len(single))
        tokens, finite = [], []
        with self._tokenizer_at_work() as device:
            for rows in batches_of(len(single), batch_size):
                pixel_values = self.preprocess(single[rows]).to(device, self.tokenizer.dtype)
                encoded = self.tokenizer.encode(
                    pixel_values,
                    return_dict=True,
                    sample_posterior=generators is not None,
                    generator=generators[rows] if isinstance(generators, list) else generators,
                    num_tokens=num_tokens,
                )
                tokens.append(encoded.latents if encoded.codes is None else encoded.codes)
                finite.append(encoded.latents.isfinite().all())
        check_finite(torch.stack(finite).all(), "The tokens of the encoder")
        return torch.cat(tokens)

    @torch.no_grad()
    def decode(
        self, tokens: Tokens, output_type: OutputType = "pil", batch_size: int = 32
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """
        Tokens to images.

        Args:
            tokens: what `encode` returns, in any container: codes, integers of shape (batch, num_latent_tokens); for
                KL tokenizers latents, floats of shape (batch, num_latent_tokens, codebook_dim). Tokenizers trained
                with tail drop take the first tokens alone too.
            output_type: `"pil"`, a list of images; `"np"`, float (batch, height, width, 3); `"pt"`, float
                (batch, 3, height, width). Values are in [0, 1].
            batch_size: number of images that are decoded at once.

        Raises:
            ValueError: tokens of a wrong shape or dtype, codes outside the codebook, latents that are not finite, an
                unknown `output_type`, or a stage-1 tokenizer, which ends in proxy codes.
        """
        check_output_type(output_type)
        return self._decode(checked_tokens(tokens, self.tokenizer.config), output_type, batch_size)

    def _decode(
        self, tokens: torch.Tensor, output_type: str, batch_size: int = 32
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """As `decode`, without checks of the tokens, and for latents of every model."""
        batches: list[Any] = []
        with self._tokenizer_at_work() as device:
            for rows in batches_of(len(tokens), batch_size):
                batch = tokens[rows].to(device)
                if not batch.is_floating_point():
                    pixel_values = self.tokenizer.decode(codes=batch, return_dict=True).pixel_values
                else:
                    latents = batch.to(self.tokenizer.dtype)
                    pixel_values = self.tokenizer.decode(latents=latents, return_dict=True).pixel_values
                if pixel_values is None:
                    raise ValueError(
                        "This is a stage-1 tokenizer: it ends in proxy codes, not pixels. Use a stage-2 model."
                    )
                batches.append(self.image_processor.post_process(pixel_values.float(), output_type=output_type))
        if output_type == "pil":
            return [image for images in batches for image in images]
        return np.concatenate(batches) if output_type == "np" else torch.cat(batches)

    def reconstruct(
        self,
        images: Images,
        output_type: OutputType = "pil",
        batch_size: int = 32,
        num_tokens: int | None = None,
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """Images to tokens and back. Arguments and errors are those of `encode` and `decode`."""
        check_output_type(output_type)
        return self.decode(self.encode(images, batch_size, num_tokens=num_tokens), output_type, batch_size)

    @contextmanager
    def _tokenizer_at_work(self) -> Iterator[torch.device]:
        """The device of the tokenizer, which is moved there if models are offloaded to the CPU."""
        device = self._execution_device
        with onloaded(self.tokenizer), self._fast_on_cpu():
            yield device
        self.maybe_free_model_hooks()

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the current or last call."""
        return self._guidance_scale

    @property
    def interrupt(self) -> bool:
        """Whether the call ends after this step: a callback may set `pipe._interrupt = True`, as in diffusers."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """The number of sampling steps of the current or last call."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        class_labels: ClassLabels,
        num_images_per_class: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        generator: Generators | None = None,
        init_codes: Tokens | None = None,
        strength: float | None = None,
        mask: Tokens | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
        guiding_transformer: MaskGitTransformer1DModel | None = None,
    ) -> TiTokPipelineOutput | tuple:
        """
        Generate images of classes, or change images through their codes. Settings that are None are the scheduler's.

        Args:
            class_labels: number or name of a class, or a list of them.
            num_images_per_class: images for each entry of `class_labels`, one after the other.
            num_inference_steps: sampling steps, at most 5000.
            guidance_scale: strength of the guidance; 1 or less is none, which needs half the work.
            temperature: weight of the Gumbel noise at the first step, for a sampler with such noise.
            generator: source of all random numbers; with one for each image, images do not depend on one another.
            init_codes: codes of images to start from, int64, shape (entries of `class_labels`, num_latent_tokens). One
                row serves all classes, and one class all rows.
            strength: share of `init_codes` that is masked at random and resampled, in (0, 1].
            mask: instead of `strength`, the positions to resample: bool, shape of `init_codes`.
            output_type: as for `decode`, or `"latent"` for the codes.
            return_dict: whether to return a dataclass rather than a tuple of its fields.
            callback_on_step_end: called as `callback(pipe, step, timestep, tensors)` after each step. It may return a
                dictionary with other `codes` for the next step. If it sets `pipe._interrupt = True`, the call ends
                after this step, with its `predicted_codes` where codes are still masked.
            callback_on_step_end_tensor_inputs: what `tensors` holds: `"codes"`, some of which are the mask token, or
                `"predicted_codes"`, the prediction of this step for all codes.
            guiding_transformer: the weaker generator, for a scheduler whose guidance is `"autoguidance"`.

        Raises:
            ValueError: arguments that do not fit, logits that are not finite, or a callback with unknown codes.
        """
        self._check_can_generate()
        check_output_type(output_type, "latent")
        callback_tensors = tensors_of_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        scheduler = scheduler_of_call(self.scheduler, guidance_scale, temperature)
        check_guiding(guiding_transformer, self.transformer, scheduler.config.guidance, self._execution_device)
        labels, codes, mask = inputs_of_call(self, class_labels, num_images_per_class, init_codes, strength, mask)
        generator = checked_generators(generator, len(labels))
        codes = masked_at_start(codes, strength, mask, scheduler, generator)
        num_masked = None if init_codes is None else (codes == self.transformer.mask_token_id).sum(dim=1).tolist()
        scheduler.set_timesteps(num_inference_steps, device=codes.device, num_masked_tokens=num_masked)
        self._guidance_scale, self._num_timesteps = scheduler.config.guidance_scale, len(scheduler.timesteps)
        logits_of = GuidedLogits(self.transformer, scheduler, labels, guiding_transformer)
        codes = sample(self, logits_of, codes, generator, callback_on_step_end, callback_tensors)
        images = codes if output_type == "latent" else self._decode(codes, output_type)
        self.maybe_free_model_hooks()
        return TiTokPipelineOutput(images=images, codes=codes) if return_dict else (images, codes)

    def _check_can_generate(self) -> None:
        if not self.tokenizer.config.has_codebook:
            raise ValueError("The tokenizer is a KL model: it has no codes to generate. Only encode and decode work.")
        if self.transformer is None:
            raise ValueError(
                "This pipeline has a tokenizer only. Give it a transformer and a scheduler to generate images."
            )


__all__ = ["TiTokPipeline", "TiTokPipelineOutput"]
