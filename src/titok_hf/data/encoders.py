"""Frozen tokenizers for pretokenisation: pixels to codes or latents, the same in every process."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import List, Value
from transformers import PretrainedConfig
from transformers.utils import logging

from ..accepted_values import check_finite
from ..checkpoints.connection import small_file
from ..checkpoints.layout import INDEX_NAME
from ..configuration_maskgit_vqgan import MaskGitVQGANConfig
from ..image_processing_pil_titok import TiTokImageProcessorPil
from ..modeling_maskgit_vqgan import MaskGitVQGANModel
from ..modeling_titok import TiTokModel

Precision = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ImageEncoder:
    """
    A tokenizer by name. It is loaded at its first use, so a process that gets the name loads its own.

    Args:
        model: a folder or Hub id of a `TiTokPipeline`, `TiTokModel` or `MaskGitVQGANModel`, or of an original TiTok.
        revision: of the Hub id.
        precision: "fp32" or "bf16" weights and activations; quantisation runs in float32 either way.
        device: "cpu", "cuda", "cuda:1", "mps".
        batch_size: images per forward pass.
        image_size: height and width of the images, in pixels; a MaskGIT-VQGAN takes several sizes.
    """

    model: str
    revision: str | None = None
    precision: Precision = "fp32"
    device: str = "cpu"
    batch_size: int = 32
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in _DTYPES:
            raise ValueError(f"precision is {self.precision!r}; it has to be one of {', '.join(_DTYPES)}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it has to be at least 1.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # without the loaded network

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """
        Args:
            pixels: uint8, shape (images, image_size, image_size, 3).
        Returns:
            codes, unsigned integers as small as the codebook allows, shape (images, num_tokens); of a KL model the
            means of the latents, float16, shape (images, num_tokens, codebook_dim).
        Raises:
            ValueError: latents that are not finite in float16.
        """
        encoded = []
        with _one_thread(self.device):
            for start in range(0, len(pixels), self.batch_size):
                batch = torch.from_numpy(pixels[start : start + self.batch_size]).to(self.device)
                pixel_values = (batch.permute(0, 3, 1, 2).float() / 255).to(_DTYPES[self.precision])
                encoded.append(self._encode(pixel_values).cpu().numpy())
        values = np.concatenate(encoded)
        if self.is_continuous and not np.abs(values).max(initial=0) <= np.finfo(self.value_type).max:  # catches NaN
            raise ValueError(
                f"The latents of {self.model} reach {np.abs(values).max()}, which {self.value_type} cannot hold. "
                "Those of a trained KL model lie near 0; check its weights, and that pixel values lie in [0, 1]."
            )
        return values.astype(self.value_type)

    @property
    def is_continuous(self) -> bool:
        """Whether the model has latents and no codes."""
        return not self.network.config.has_codebook

    @property
    def value_type(self) -> str:
        """Name of the dtype of one value in the data set."""
        if self.is_continuous:
            return "float16"
        size = self.network.config.codebook_size
        return "uint8" if size <= 2**8 else "uint16" if size <= 2**16 else "uint32"

    @property
    def column(self) -> str:
        """ "codes" or "latents"."""
        return "latents" if self.is_continuous else "codes"

    def feature(self) -> List:
        """The column as a feature of `datasets`."""
        config, feature = self.network.config, Value(self.value_type)
        is_vqgan = isinstance(self.network, MaskGitVQGANModel)
        shape = ((self.size // config.downsample_factor) ** 2,) if is_vqgan else config.token_shape
        for length in reversed(shape):
            feature = List(feature, length=length)
        return feature

    @property
    def size(self) -> int:
        """Height and width of the images, in pixels; ValueError if `image_size` does not fit the model."""
        config = self.network.config
        if isinstance(self.network, MaskGitVQGANModel):
            size = self.image_size or 256  # the size of the published teacher
            if size % config.downsample_factor:
                raise ValueError(f"image_size is {size}; this model takes multiples of {config.downsample_factor}.")
            return size
        if self.image_size not in (None, config.image_size):
            raise ValueError(f"image_size is {self.image_size}, but this model takes {config.image_size}.")
        return config.image_size

    @cached_property
    def enlarges(self) -> bool:
        """Whether small images are enlarged, as the model's image processor says; if not, they get black margins."""
        folder = "image_processor" if self._is_pipeline else ""
        name = f"{folder}/preprocessor_config.json".lstrip("/")
        if small_file(self.model, name, self.revision) is None:
            return True
        return TiTokImageProcessorPil.from_pretrained(self.model, revision=self.revision, subfolder=folder).do_enlarge

    @cached_property
    def network(self) -> TiTokModel | MaskGitVQGANModel:
        """The model, in eval mode, on its device."""
        where: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        if self._is_pipeline:
            where["subfolder"] = "tokenizer"
        config, _ = PretrainedConfig.get_config_dict(self.model, **where)
        is_vqgan = config.get("model_type") == MaskGitVQGANConfig.model_type
        kind = MaskGitVQGANModel if is_vqgan else TiTokModel
        shows_bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # every worker would draw one
        try:
            model = kind.from_pretrained(self.model, **where)
        finally:
            if shows_bars:
                logging.enable_progress_bar()
        return model.eval().to(self.device, _DTYPES[self.precision])

    def identity(self) -> dict[str, Any]:
        """Plain values that identify this encoder, for the settings and the card of a data set."""
        config = {k: v for k, v in self.network.config.to_dict().items() if not k.startswith("_")}
        config.pop("transformers_version", None)
        config.pop("dtype", None)
        return {
            "model": Path(self.model).resolve().name if Path(self.model).exists() else self.model,
            "revision": getattr(self.network.config, "_commit_hash", None) or self.revision,
            "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
            "weights_hash": self._weights_hash(),
            "precision": self.precision,
            "device": torch.device(self.device).type,
            "batch_size": self.batch_size,
        }

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tokens of a batch; ValueError if the encoder's output is not finite."""
        options = {} if isinstance(self.network, MaskGitVQGANModel) else {"sample_posterior": False}
        output = self.network.encode(pixel_values, return_dict=True, **options)
        check_finite(output.latents.isfinite().all(), "The tokens of the encoder")
        return output.posterior_mean.float() if self.is_continuous else output.codes

    def _weights_hash(self) -> str:
        """Of the weights that encoding uses; a fine-tuned decoder changes no code."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            if name.startswith(("encoder.", "quantizer.")):
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _is_pipeline(self) -> bool:
        return small_file(self.model, INDEX_NAME, self.revision) is not None


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """On a CPU the order of a sum, and so a code now and then, depends on the number of threads."""
    threads = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
