"""The mixin of the pipeline: images changed through their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.utils import BaseOutput
from PIL import Image

from ..accepted_values import check_finite, whole_number
from ..class_names import ClassLabels
from ..pipeline_inputs import (
    Generators,
    Images,
    StepCallback,
    check_output_type,
    checked_generators,
    list_of_images,
    tensors_of_callback,
)
from .pixel_masks import pixel_masks
from .token_optimization import (
    ImageLoss,
    TokenOptimization,
    TokenOptimizer,
    masked_mean_squared_error,
    without_gradients,
)

if TYPE_CHECKING:
    from ..pipeline_titok import TiTokPipelineOutput

OutputType = Literal["pil", "np", "pt"]

# Grey values for a hole: tokens that differ between two of them depend on the hole.
_FILLS = (0.0, 0.5, 1.0)


@dataclass
class TokenOptimizationOutput(BaseOutput):
    """
    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): as those of a call of the pipeline.
        tokens (`torch.Tensor`): as `encode` returns them: codes (batch, num_latent_tokens); for KL tokenizers latents
            (batch, num_latent_tokens, codebook_dim).
        losses (`torch.FloatTensor` of shape `(num_steps, batch)`): of each image before each step.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    tokens: torch.Tensor
    losses: torch.Tensor


class EditingMixin:
    """Methods of [`TiTokPipeline`] that change images through their tokens."""

    if TYPE_CHECKING:  # the other methods of the pipeline

        def __getattr__(self, name: str) -> Any: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def optimize_tokens(
        self,
        images: Images,
        loss: ImageLoss,
        settings: TokenOptimization | None = None,
        generator: Generators | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> TokenOptimizationOutput:
        """
        Change images by gradient descent on their tokens (arXiv 2506.08257). It needs no generator.

        Args:
            images: where to start, as for `preprocess`. All are computed at once.
            loss: what to reduce: a function of the decoded pixel values, float32, shape (batch, 3, image_size,
                image_size), nominally in [0, 1], that returns one number for each image, shape (batch,).
            settings: see [`TokenOptimization`].
            generator: source of the noise; with one for each image, images do not depend on one another.
            output_type: as for `decode`.
            callback_on_step_end: called as `callback(pipe, step, timestep, tensors)` after each step, with the share
                of steps that are left as `timestep`, and in `tensors` the averaged `latents` and the `losses`. If it
                sets `pipe._interrupt = True`, the result is the average so far.

        Returns:
            the images of the final tokens, which for VQ models are codes; the tokens; and the losses of all steps.
            The tokenizer's weights, mode and gradients are as before.

        Raises:
            ValueError: as `encode`; a stage-1 tokenizer; a loss that is no tensor of shape (batch,), has no gradients,
                or is not finite.
        """
        self._check_is_in_torch()
        check_output_type(output_type)
        tensors_of_callback(callback_on_step_end, ())
        single = list_of_images(images)
        generators = checked_generators(generator, len(single))
        tokens = self.encode(single)
        tokens, losses = self._optimized(tokens, loss, settings, generators, callback_on_step_end)
        return TokenOptimizationOutput(images=self.decode(tokens, output_type), tokens=tokens, losses=losses)

    def inpaint(
        self,
        images: Images,
        mask: Images,
        class_labels: ClassLabels | None = None,
        settings: TokenOptimization | None = None,
        generator: Generators | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> TokenOptimizationOutput:
        """
        Fill a region of images: tokens are optimised until the known pixels are reproduced. It needs no generator, and
        starts from the tokens of the image whose hole has the mean of its known pixels; with `class_labels`, it starts
        from what the generator fills in, which is better (docs/editing.md).

        Args:
            images: as for `preprocess`.
            mask: one for all images or one for each: PIL images, arrays, tensors or paths, black (0, False) where the
                image is known and white (255, 1, True) where it is to be filled, as in diffusers. A mask has the size
                of its image, and is resized and cropped as the image is, or the size of the model's images.
            class_labels: the class of the images, one or one for each; the pipeline then needs a generator.
            settings, generator, output_type, callback_on_step_end: as for `optimize_tokens`.

        Returns:
            as `optimize_tokens`; known pixels of the images are those that were given. `decode(output.tokens)` shows
            all pixels as the tokens have them.

        Raises:
            ValueError: as `optimize_tokens`; or a mask of another size, with other values, or that marks nothing or
                everything.
        """
        self._check_is_in_torch()
        check_output_type(output_type)
        tensors_of_callback(callback_on_step_end, ())
        pixel_values, masks = self.images_with_masks(images, mask)
        generators = checked_generators(generator, len(pixel_values))
        if class_labels is None:
            tokens = self.encode(_filled_with_mean(pixel_values, masks))
        else:
            tokens = self._infilled(pixel_values, masks, class_labels, generator=generators).codes
        loss = masked_mean_squared_error(pixel_values.to(tokens.device), ~masks.to(tokens.device))
        tokens, losses = self._optimized(tokens, loss, settings, generators, callback_on_step_end)
        return TokenOptimizationOutput(self._decode_holes(tokens, pixel_values, masks, output_type), tokens, losses)

    def infill(
        self,
        images: Images,
        mask: Images,
        class_labels: ClassLabels,
        output_type: OutputType = "pil",
        **settings: Any,
    ) -> TiTokPipelineOutput:
        """
        Fill a region of images with the generator: the codes that depend on the region are resampled, and all other
        codes stay as they are (MaskGIT, arXiv 2202.04200, section 4.3, on 1D codes).

        Args:
            images, mask: as for `inpaint`.
            class_labels: the class of the images: one, or one for each.
            output_type: as for `decode`.
            settings: of the call of the pipeline: `generator`, `num_inference_steps`, `guidance_scale` ...

        Returns:
            the images, with the known pixels that were given, and the codes.

        Raises:
            ValueError: as a call of the pipeline, or a mask that does not fit.
        """
        check_output_type(output_type)
        pixel_values, masks = self.images_with_masks(images, mask)
        output = self._infilled(pixel_values, masks, class_labels, **settings)
        output.images = self._decode_holes(output.codes, pixel_values, masks, output_type)
        return output

    def codes_of_region(self, images: Images, mask: Images) -> torch.Tensor:
        """
        Which codes of images depend on a region: those that change if it is filled with black, grey or white.

        Args:
            images, mask: as for `inpaint`.

        Returns:
            bool, shape (batch, num_latent_tokens), on the device of the pipeline.

        Raises:
            ValueError: as `encode`, a mask that does not fit, or a KL tokenizer, which has no codes.
        """
        if not self.tokenizer.config.has_codebook:
            raise ValueError("The tokenizer is a KL model: it has no codes. Use a VQ tokenizer.")
        return self._depends_on_region(*self.images_with_masks(images, mask))

    def images_with_masks(self, images: Images, mask: Images) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Images and masks as `inpaint` and `infill` use them: resized and cropped.

        Returns:
            pixel values, float32 in [0, 1], shape (batch, 3, image_size, image_size), and masks, bool, shape (batch,
            1, image_size, image_size), True where to fill; both on the CPU.

        Raises:
            ValueError: as `inpaint`.
        """
        processor = self.image_processor
        loaded = processor.fetch_images(list_of_images(images))
        masks = mask if isinstance(mask, np.ndarray | torch.Tensor) else processor.fetch_images(list_of_images(mask))
        pixel_values = self.preprocess(loaded).cpu()
        return pixel_values, pixel_masks(masks, loaded, self.tokenizer.config.image_size, self.preprocess)

    def variations(
        self,
        images: Images,
        class_labels: ClassLabels,
        strength: float = 0.4,
        num_images: int = 1,
        **settings: Any,
    ) -> TiTokPipelineOutput:
        """
        Variations of images: a random share of the codes is resampled, given a class. With the class of the image the
        result is like it; with another class, and a strength of about 0.7, the image changes to that class.

        Args:
            images: as for `preprocess`.
            class_labels: one for all images, or one for each. For one image, several give variations of each class.
            strength: share of the codes that is resampled, in (0, 1].
            num_images: variations of each image.
            settings: of the call of the pipeline: `generator` (one, or one for each variation), `output_type` ...

        Returns:
            the images and codes: all variations of the first image, then those of the second ...

        Raises:
            ValueError: as a call of the pipeline.
        """
        self._check_can_generate()
        codes = self.encode(images)
        return self(class_labels, num_images_per_class=num_images, init_codes=codes, strength=strength, **settings)

    @torch.no_grad()
    def interpolate(
        self,
        first: Images,
        second: Images,
        num_images: int = 8,
        space: Literal["latents", "codes"] = "latents",
        output_type: OutputType = "pil",
        batch_size: int = 32,
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """
        Images between two images: the latents of each token are mixed in equal steps, and decoded.

        Args:
            first, second: one image each or equally many, as for `preprocess`.
            num_images: images for each pair, at least 2: the reconstruction of the first one, those between, the
                reconstruction of the second one.
            space: `"latents"` decodes the mixed latents, which lie between entries of the codebook; `"codes"` decodes
                the nearest codes, so that each image has codes (VQ models only).
            output_type, batch_size: as for `decode`.

        Returns:
            the images: all of the first pair, then those of the second ...

        Raises:
            ValueError: as `encode`, another number of first than of second images, fewer than 2 images for a pair, an
                unknown `space`, or codes of a KL model.
        """
        self._check_is_in_torch()
        check_output_type(output_type)
        config, quantizer = self.tokenizer.config, self.tokenizer.quantizer
        if space not in ("latents", "codes"):
            raise ValueError(f'space is {space!r}, which does not exist. Use "latents" or "codes".')
        if space == "codes" and not config.has_codebook:
            raise ValueError('space is "codes", but a KL tokenizer has none. Use "latents".')
        num_images = whole_number("num_images", num_images, lowest=2)
        starts, ends = list_of_images(first), list_of_images(second)
        if len(starts) != len(ends):
            raise ValueError(f"There are {len(starts)} first and {len(ends)} second images. Give equally many.")
        tokens = self.encode([*starts, *ends], batch_size)
        with self._tokenizer_at_work() as device:
            latents = quantizer.lookup(tokens) if config.has_codebook else tokens.float()
            weights = torch.linspace(0, 1, num_images, device=device).view(-1, 1, 1)
            mixed = torch.cat([torch.lerp(*pair, weights) for pair in zip(*latents.chunk(2), strict=True)])
            if space == "codes":
                mixed = quantizer(mixed).codes
            elif config.has_codebook and config.codebook_l2_norm:
                mixed = F.normalize(mixed, dim=-1)  # as the entries that the decoder knows
        return self._decode(mixed, output_type, batch_size)

    def _check_is_in_torch(self) -> None:
        if not isinstance(self.tokenizer, torch.nn.Module):
            raise ValueError(
                "This tokenizer was exported to another engine, and has neither gradients nor a codebook there. Use "
                "the model in PyTorch that was exported."
            )

    def _optimized(
        self,
        tokens: torch.Tensor,
        loss: ImageLoss,
        settings: TokenOptimization | None,
        generators: torch.Generator | list[torch.Generator] | None,
        callback: StepCallback | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens, as `encode` returns them, optimised; and the losses of all steps, (num_steps, batch)."""
        settings = settings or TokenOptimization()
        config, quantizer = self.tokenizer.config, self.tokenizer.quantizer
        losses = []
        self._interrupt = False
        with self._tokenizer_at_work(), without_gradients(self.tokenizer):
            latents = quantizer.lookup(tokens) if config.has_codebook else tokens
            optimizer = TokenOptimizer(self.tokenizer, latents, loss, settings, generators)
            for step in self.progress_bar(range(settings.num_steps)):
                losses.append(optimizer.step())
                if callback is not None:
                    left = torch.tensor(1 - (step + 1) / settings.num_steps)
                    callback(self, step, left, {"latents": optimizer.average, "losses": losses[-1]})
                if self.interrupt:
                    break
            all_losses = torch.stack(losses)
            check_finite(all_losses.isfinite().all(), "The losses")
            with torch.no_grad():
                average = optimizer.average
                result = quantizer(average).codes if config.has_codebook else average.to(tokens.dtype)
        return result, all_losses

    def _infilled(
        self, pixel_values: torch.Tensor, masks: torch.Tensor, labels: ClassLabels, **settings: Any
    ) -> TiTokPipelineOutput:
        """As `infill`, with codes instead of images."""
        self._check_can_generate()
        codes = self.encode(_filled_with_mean(pixel_values, masks))
        resampled = self._depends_on_region(pixel_values, masks)
        return self(labels, init_codes=codes, mask=resampled, output_type="latent", **settings)

    def _depends_on_region(self, pixel_values: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """As `codes_of_region`."""
        codes = torch.stack([self.encode(pixel_values.masked_fill(masks, value)) for value in _FILLS])
        return (codes != codes[0]).any(dim=0)

    def _decode_holes(
        self, tokens: torch.Tensor, pixel_values: torch.Tensor, masks: torch.Tensor, output_type: str
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """Images of known pixels, with the decoded ones where the masks are True."""
        decoded = self.decode(tokens, "pt")
        images = torch.where(masks.to(decoded.device), decoded, pixel_values.to(decoded.device))
        return self.image_processor.post_process(images, output_type=output_type)


def _filled_with_mean(pixel_values: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Images whose pixels under the masks have the mean colour of the others."""
    known = (~masks).float()
    mean = (pixel_values * known).sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True)
    return torch.where(masks, mean, pixel_values).clamp(0, 1)


__all__ = ["EditingMixin", "TokenOptimizationOutput"]
