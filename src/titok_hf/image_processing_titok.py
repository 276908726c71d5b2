"""Images to model input and back, resized by torchvision, also on a GPU."""

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend

# diffusers finds the loader of a pipeline component by the name of its base class in the component's module.
from transformers.image_processing_utils import ImageProcessingMixin as ImageProcessingMixin
from transformers.processing_utils import Unpack
from transformers.utils import is_torchvision_available

from .image_processing_pil_titok import TiTokImageProcessorKwargs, TiTokImageProcessorMixin


class TiTokImageProcessor(TiTokImageProcessorMixin, TorchvisionBackend):
    """
    [`TiTokImageProcessorPil`] with torchvision's resampling, which differs by at most a few of 255 steps; same
    arguments, methods and kinds of images. With `device="cuda"` a call resizes on the GPU.

    Raises:
        ImportError: if torchvision is not installed.
    """

    def __init__(self, **kwargs: Unpack[TiTokImageProcessorKwargs]) -> None:
        if not is_torchvision_available():
            raise ImportError(
                "TiTokImageProcessor needs torchvision, which is not installed. Install it, or use "
                "TiTokImageProcessorPil, which does the same with Pillow; AutoImageProcessor chooses by itself."
            )
        super().__init__(**kwargs)

    def process_image(self, *args: Any, **kwargs: Any) -> Any:
        """One image as a tensor of uint8 on the device of the call, shape (channels, height, width)."""
        return torch.tensor(super().process_image(*args, **kwargs), device=kwargs.get("device"))


__all__ = ["TiTokImageProcessor"]
