"""Images to model input and back, with Pillow and NumPy alone.

Each image is converted to an 8-bit RGB array, then resized, cropped and scaled to [0, 1]. TiTok uses no mean and no
standard deviation.
"""

import base64
import binascii
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

# diffusers finds the loader of a pipeline component by the name of its base class in the component's module.
from transformers.image_processing_utils import ImageProcessingMixin as ImageProcessingMixin
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs, Unpack

from .accepted_values import check_pixel_dtype
from .checkpoints.remote_code import LoadedByAutoClasses
from .image_transforms import (
    BACKGROUND,
    MAX_PIXELS,
    Box,
    black_margins,
    box_within_aspect_limit,
    center_box,
    scale_to_8_bits,
    to_8_bits,
    to_rgb,
    upright,
)

URL_PREFIXES = ("http://", "https://")


class TiTokImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]  # mypy does not read the base
    """
    The arguments of every image processor of transformers, and those of [`TiTokImageProcessorPil`].
    """

    do_exif_transpose: bool | None
    do_enlarge: bool | None
    background: str | None


class TiTokImageProcessorMixin(LoadedByAutoClasses, BaseImageProcessor):
    """TiTok's image processing, except resampling, which the backend does."""

    valid_kwargs = TiTokImageProcessorKwargs
    auto_classes = {"AutoImageProcessor": ["titok.TiTokImageProcessorPil", "titok.TiTokImageProcessor"]}

    do_exif_transpose = True
    do_enlarge = True
    background = BACKGROUND
    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 256}
    default_to_square = False
    resample = PILImageResampling.BICUBIC
    do_center_crop = True
    crop_size = None
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = False

    def preprocess(self, images: ImageInput, *args: Any, **kwargs: Unpack[TiTokImageProcessorKwargs]) -> BatchFeature:
        """
        Prepare one image or many.

        Returns:
            `pixel_values`: float32 in [0, 1], one array (3, height, width) an image; with `return_tensors="pt"` one
            tensor (batch, 3, height, width).
        Raises:
            ValueError: an empty list, an unreadable file, an array without a colour axis, sample values outside of the
                range of their type, or an image smaller than the crop.
            TypeError: something that is not an image.
        """
        if "size" in kwargs:
            kwargs.setdefault("crop_size", None)  # then the crop has this size too
        return super().preprocess(images, *args, **kwargs)

    def post_process(
        self, pixel_values: torch.Tensor | np.ndarray, output_type: str = "pil"
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """
        Model output to images. Values are clamped to [0, 1]. PIL images are rounded to 8 bits; the original
        implementation rounds in its evaluation of reconstructions, but truncates the images that it samples.

        Args:
            pixel_values: float, shape (batch, 3 or 1 channels, height, width), nominally in [0, 1].
            output_type: `"pil"`, `"np"` or `"pt"`.
        Returns:
            a list of PIL images; or a float32 array (batch, height, width, channels) in [0, 1]; or a float32 tensor
            (batch, channels, height, width) in [0, 1] on the device of `pixel_values`.
        Raises:
            ValueError: another output type, shape or dtype, or (PIL images and arrays) values that are not finite.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f'output_type is {output_type!r}; expected "pil", "np" or "pt".')
        pixel_values = torch.as_tensor(pixel_values)
        check_pixel_dtype(pixel_values)
        if pixel_values.ndim != 4 or pixel_values.shape[1] not in (1, 3):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, 3 or 1, height, width)."
            )
        tensor = pixel_values.detach().float().clamp(0, 1)
        if output_type == "pt":
            return tensor
        array = tensor.permute(0, 2, 3, 1).cpu().numpy()
        if not np.isfinite(array).all():
            raise ValueError(
                "pixel_values has values that are not finite numbers. If the model runs in float16, try bfloat16."
            )
        if output_type == "np":
            return array
        array = np.rint(array * 255).astype(np.uint8)
        return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in array]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Replace paths, URLs, base64 text and the bytes of files by PIL images, in any nesting of lists."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, str) and image_url_or_urls.startswith(URL_PREFIXES):
            return read_url(image_url_or_urls)
        if isinstance(image_url_or_urls, bytes | bytearray):
            return decoded(bytes(image_url_or_urls), "The data")
        if isinstance(image_url_or_urls, str | os.PathLike):
            return read_image(image_url_or_urls)
        return image_url_or_urls

    def process_image(
        self,
        image: Image.Image | np.ndarray | torch.Tensor,
        do_convert_rgb: bool | None = None,
        do_exif_transpose: bool | None = None,
        background: str | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """One image as an array of uint8, shape (channels, height, width); 3 channels with `do_convert_rgb`."""
        if isinstance(image, Image.Image):
            array = pil_to_array(image, bool(do_convert_rgb), bool(do_exif_transpose), background or BACKGROUND)
        elif isinstance(image, np.ndarray | torch.Tensor):
            array = channels_first(image, input_data_format)
        else:
            raise TypeError(
                f"Got an image of type {type(image).__name__}; expected a PIL image, a NumPy array, a torch tensor, a "
                "path, a URL, or the bytes of a file."
            )
        if not array.size:
            raise ValueError(f"Got an image without pixels, shape {array.shape}.")
        if do_convert_rgb and len(array) != 3:
            grey_or_rgba = Image.fromarray(
                array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
            )
            array = pil_to_array(grey_or_rgba, True, False, background or BACKGROUND)
        return array

    def center_crop(self, image: Any, size: SizeDict, **kwargs: Any) -> Any:
        """Cut `size` from the centre of an array or tensor (..., height, width), see `center_box`."""
        width, height = width_and_height(image)
        if height < size.height or width < size.width:
            raise ValueError(
                f"An image of {height} x {width} pixels is too small for a crop of {size.height} x {size.width}. Set "
                "do_resize, or choose a smaller crop_size."
            )
        return cropped(image, center_box(width, height, size.width, size.height))

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[Any]:
        flat = list(single_images(self.fetch_images(images)))
        if not flat:
            raise ValueError("Got no images: the list is empty.")
        return flat

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        size = kwargs["size"]
        if kwargs["crop_size"] is None and size is not None:
            kwargs["crop_size"] = SizeDict(
                height=size.height or size.shortest_edge, width=size.width or size.shortest_edge
            )
        return kwargs

    def _preprocess(self, images: list[Any], *args: Any, **kwargs: Any) -> BatchFeature:
        size, crop_size = kwargs["size"], kwargs["crop_size"]
        if kwargs["do_resize"] and not kwargs["do_enlarge"] and size.shortest_edge:
            images = [center_on_black(image, size.shortest_edge) for image in images]
        if kwargs["do_resize"] and kwargs["do_center_crop"] and size.shortest_edge:
            if max(crop_size.height, crop_size.width) <= size.shortest_edge:
                images = [cropped(image, box_within_aspect_limit(*width_and_height(image))) for image in images]
        return super()._preprocess(images, *args, **kwargs)


class TiTokImageProcessorPil(TiTokImageProcessorMixin, PilBackend):
    """
    Turns images into TiTok's `pixel_values` and back, with Pillow: RGB, upright, shorter edge to `size` (bicubic,
    antialiased), centre crop, values in [0, 1].

    An image may be a PIL image of any mode that Pillow can show in RGB, a NumPy array or torch tensor (H, W),
    (H, W, C) or (C, H, W) with 1, 3 or 4 channels, a path, a URL, base64 text, or the bytes of a file; a batch may be
    an array (B, ...) of these or a (nested) list. Transparent pixels are laid on `background`. Sample values mean:

    * 8 bits, and all integers that are not named below: 0 to 255;
    * 16 bits (arrays of uint16, PIL modes `I;16` and `I`): 0 to 65535, scaled to 8 bits. (The original uses Pillow's
      `convert("RGB")`, which makes all values above 255 white.);
    * floats: 0 to 1; PIL mode `F`: 0 to 255, as in Pillow;
    * booleans: black and white.

    Args:
        size (`int` or `dict[str, int]`, defaults to 256): length of the shorter edge after
            resizing; the longer one is truncated to whole pixels.
        crop_size (`int` or `dict[str, int]`, *optional*): what is cut from the centre; default: a square of `size`.
        resample (`PILImageResampling`, defaults to bicubic): resampling filter, antialiased.
        do_exif_transpose (`bool`, defaults to `True`): turn PIL images and files upright as their EXIF orientation
            says. The original does not.
        do_enlarge (`bool`, defaults to `True`): enlarge an image whose shorter edge is below `size`. If False, it gets
            black margins, as Fashion-MNIST's images of 28 pixels do to become 32.
        background (`str`, defaults to `"white"`): the colour behind transparent pixels; `"none"` drops alpha and shows
            the stored colours, as the original does.
        kwargs: the other arguments of transformers' image processors.

    ```python
    pixel_values = processor(images, return_tensors="pt").pixel_values   # (batch, 3, 256, 256) in [0, 1]
    images = processor.post_process(pixel_values)                        # list of PIL images
    ```
    """

    def __init__(self, **kwargs: Unpack[TiTokImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)


def read_image(source: str | os.PathLike) -> Image.Image:
    """
    Read an image from a file, or from base64 text with or without `data:image/...;base64,` before it;
    FileNotFoundError if it is neither, ValueError for an unreadable file.
    """
    if os.path.isfile(source):
        return decoded(Path(source).read_bytes(), os.fspath(source))
    text = os.fspath(source)
    try:
        content = base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)
        return decoded(content, f"{text[:60]!r}")
    except (binascii.Error, ValueError) as error:  # the path of a missing file may be valid base64
        name = text if len(text) <= 200 else f"{text[:60]}... ({len(text)} characters)"
        raise FileNotFoundError(f"{name} is no file, nor the base64 text of an image ({error}).") from error


def read_url(url: str) -> Image.Image:
    """Read an image from the web; an unreadable image raises ValueError, a failed request OSError."""
    try:
        with urlopen(Request(url, headers={"User-Agent": "titok-hf"}), timeout=60) as response:
            content = response.read()
    except OSError as error:
        raise OSError(f"{url} cannot be fetched: {error}") from error
    return decoded(content, url)


def decoded(image: bytes | Image.Image, name: str) -> Image.Image:
    """Decode an image completely; ValueError if Pillow can't, or if it has more pixels than `MAX_PIXELS`."""
    try:
        opened = image if isinstance(image, Image.Image) else Image.open(BytesIO(image))
        too_large = opened.width * opened.height > MAX_PIXELS
        if not too_large:
            opened.load()
    except Exception as error:  # for damaged data Pillow raises exceptions of many kinds
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} is not an image that Pillow can read: {reason}") from error
    if too_large:
        raise ValueError(
            f"{name} has {opened.width} x {opened.height} pixels; the limit is {MAX_PIXELS:,}. Make it smaller."
        )
    return opened


def single_images(images: Any) -> Iterator[Any]:
    """Walk through nested lists, and through the first axis of arrays with four axes."""
    is_batch = isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4
    if is_batch or isinstance(images, list | tuple):
        for image in images:
            yield from single_images(image)
    else:
        yield images


def pil_to_array(image: Image.Image, convert_rgb: bool, exif_transpose: bool, background: str) -> np.ndarray:
    """PIL image to uint8, shape (channels, height, width); 3 channels with `convert_rgb`."""
    decoded(image, getattr(image, "filename", "") or "The PIL image")
    if exif_transpose:
        image = upright(image)
    array = to_8_bits(to_rgb(image, background) if convert_rgb else image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def channels_first(image: np.ndarray | torch.Tensor, data_format: str | ChannelDimension | None) -> np.ndarray:
    """Array or tensor (H, W), (H, W, C) or (C, H, W) to uint8, shape (C, H, W)."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if image.ndim == 2:
        image, data_format = image[None], ChannelDimension.FIRST
    if image.ndim != 3:
        raise ValueError(f"Got an image of shape {image.shape}; expected (H, W), (H, W, C) or (C, H, W).")
    if data_format is None:
        try:
            data_format = infer_channel_dimension_format(image, num_channels=(1, 3, 4))
        except ValueError as error:
            raise ValueError(
                f"Got an image of shape {image.shape}, in which no axis looks like colour. Give (H, W, C) or (C, H, W)"
                " with 1, 3 or 4 channels; a batch of grey images as a list, or with an axis of length 1."
            ) from error
    if ChannelDimension(data_format) == ChannelDimension.LAST:
        image = image.transpose(2, 0, 1)
    if len(image) not in (1, 3, 4):
        raise ValueError(f"Got an image of {len(image)} channels; expected 1 (grey), 3 (RGB) or 4 (RGBA).")
    full_scale = {"b": 1, "f": 1, "u": 255, "i": 255}.get(image.dtype.kind)
    if full_scale is None:
        raise TypeError(f"Got an image of dtype {image.dtype}; expected integers, floats or booleans.")
    return scale_to_8_bits(image, 65535 if image.dtype == np.uint16 else full_scale)


def center_on_black(image: Any, size: int) -> Any:
    """Pad an array or tensor (channels, height, width) with zeros until both edges are at least `size`."""
    left, top, right, bottom = black_margins(*width_and_height(image), size)
    if isinstance(image, torch.Tensor):
        return torch.nn.functional.pad(image, (left, right, top, bottom))
    return np.pad(image, ((0, 0), (top, bottom), (left, right)))


def width_and_height(image: Any) -> tuple[int, int]:
    """Of an array or tensor (..., height, width)."""
    return image.shape[-1], image.shape[-2]


def cropped(image: Any, box: Box) -> Any:
    """The part of an array or tensor (..., height, width) in a box."""
    left, top, right, bottom = box
    return image[..., top:bottom, left:right]


__all__ = ["TiTokImageProcessorPil"]
