"""Tasks for `transformers.pipeline`: "image-to-codes", "codes-to-image" and "image-to-latents".

`import titok_hf` registers them, and so does loading a checkpoint with `trust_remote_code=True`:

    from transformers import pipeline

    to_codes = pipeline("image-to-codes", model="user/tokenizer")
    to_image = pipeline("codes-to-image", model="user/tokenizer")
    to_image(to_codes("cat.jpg"))
"""

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline

from .accepted_values import check_finite
from .image_processing_pil_titok import single_images
from .pipeline_inputs import checked_tokens


class _TokenizerTask(Pipeline):
    """Base class: a task loads the model and its image processor."""

    needs_codes: ClassVar[bool] = True

    _load_image_processor: ClassVar[bool] = True
    _load_feature_extractor: ClassVar[bool] = False
    _load_processor: ClassVar[bool] = False
    _load_tokenizer: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.needs_codes and not self.model.config.has_codebook:
            raise ValueError(
                f'The task "{self.task}" needs codes, and this is a KL model, whose tokens are continuous. Use '
                '"image-to-latents", or TiTokModel.encode and .decode.'
            )

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        if parameters:
            raise TypeError(f'The task "{self.task}" has no parameter {", ".join(sorted(parameters))}.')
        return {}, {}, {}


class _ImageTask(_TokenizerTask):
    """Encodes images."""

    def __call__(self, images: "str | os.PathLike | Image.Image | list | Iterable", **kwargs: Any) -> Any:
        """
        Args:
            images: one image (a path, a URL, base64 text, a PIL image, an array or a tensor), a list, a batch, a data
                set or a generator of them. Values as for [`TiTokImageProcessor`].
            kwargs: `batch_size`, `num_workers`.

        Returns:
            the result of the class for one image; for several images a list.

        Raises:
            ValueError, TypeError: something that is not an image, or values outside of the range of their type.
            FileNotFoundError: a path that does not exist.
        """
        if isinstance(images, np.ndarray | torch.Tensor) and images.ndim > 3:
            images = list(single_images(images))
        return super().__call__(images, **kwargs)

    def preprocess(self, image: "str | os.PathLike | Image.Image") -> dict[str, torch.Tensor]:
        pixel_values = self.image_processor(image, return_tensors="pt").pixel_values
        if len(pixel_values) != 1:
            raise ValueError(f"An entry of the list holds {len(pixel_values)} images. Give one image in each entry.")
        return {"pixel_values": pixel_values}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        options = {} if self.needs_codes else {"sample_posterior": False}
        encoded = self.model.encode(inputs["pixel_values"], return_dict=True, **options)
        tokens = encoded.codes if self.needs_codes else encoded.latents
        return {"tokens": tokens, "finite": encoded.latents.isfinite().flatten(1).all(dim=1)}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> list:
        check_finite(outputs["finite"].all(), "The tokens of the encoder")
        return outputs["tokens"][0].tolist()


class ImageToCodesPipeline(_ImageTask):
    """
    Images to codes: of each image a list of `num_latent_tokens` integers in [0, codebook_size).

    Example:
        >>> codes = pipeline("image-to-codes", model="user/tokenizer")(["cat.jpg", "dog.jpg"], batch_size=2)
        >>> len(codes), len(codes[0])
        (2, 32)
    """


class ImageToLatentsPipeline(_ImageTask):
    """
    Images to latents: of each image `num_latent_tokens` lists of `codebook_dim` floats: codebook entries, or for KL
    models the mean.

    Example:
        >>> latents = torch.tensor(pipeline("image-to-latents", model="user/tokenizer")("cat.jpg"))
        >>> latents.shape
        torch.Size([32, 12])
    """

    needs_codes = False


class CodesToImagePipeline(_TokenizerTask):
    """
    Codes to images.

    Example:
        >>> images = pipeline("codes-to-image", model="user/tokenizer")(codes, batch_size=2)
    """

    def __call__(
        self, codes: "list[int] | list[list[int]] | np.ndarray | torch.Tensor | Iterable", **kwargs: Any
    ) -> "Image.Image | list[Image.Image]":
        """
        Args:
            codes: of one image, `num_latent_tokens` integers; or of several, one row for each image: nested lists, an
                array, a tensor, or a data set or generator of rows.
            kwargs: `batch_size`, `num_workers`.

        Returns:
            an RGB image; for several rows a list.

        Raises:
            ValueError: rows of another length, or codes outside of [0, codebook_size).
        """
        if isinstance(codes, (list, tuple, np.ndarray, torch.Tensor)) and len(codes):
            if np.ndim(codes[0]) == 0:  # for transformers a list is a batch
                return super().__call__(torch.as_tensor(codes), **kwargs)
            codes = list(codes)
        return super().__call__(codes, **kwargs)

    def preprocess(self, codes: "list[int] | np.ndarray | torch.Tensor") -> dict[str, torch.Tensor]:
        row = codes[None] if isinstance(codes, np.ndarray | torch.Tensor) else [codes]
        return {"codes": checked_tokens(row, self.model.config, "codes")}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pixel_values = self.model.decode(codes=inputs["codes"], return_dict=True).pixel_values
        if pixel_values is None:
            raise ValueError("This is a stage-1 model: it ends in proxy codes and makes no images.")
        return {"pixel_values": pixel_values}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> Image.Image:
        return self.image_processor.post_process(outputs["pixel_values"])[0]


TASKS: dict[str, type[Pipeline]] = {
    "image-to-codes": ImageToCodesPipeline,
    "codes-to-image": CodesToImagePipeline,
    "image-to-latents": ImageToLatentsPipeline,
}

__all__ = ["TASKS", "CodesToImagePipeline", "ImageToCodesPipeline", "ImageToLatentsPipeline"]
