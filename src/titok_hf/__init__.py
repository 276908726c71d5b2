# Copyright 2026 The titok-hf authors.
# Licensed under the Apache License, Version 2.0: see the file LICENSE.
"""TiTok, the one-dimensional image tokenizer, for transformers and diffusers.

`import titok_hf` is cheap: torch, transformers and diffusers are imported when a public name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from titok_hf.bundled import bundled_checkpoint
    from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
    from titok_hf.configuration_titok import TiTokConfig
    from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
    from titok_hf.image_processing_titok import TiTokImageProcessor
    from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
    from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
    from titok_hf.modeling_titok import TiTokModel
    from titok_hf.pipeline_titok import TiTokPipeline
    from titok_hf.scheduling_maskgit import MaskGitScheduler

_MODULE_OF_NAME = {
    "MaskGitScheduler": "scheduling_maskgit",
    "MaskGitTransformer1DModel": "modeling_maskgit",
    "MaskGitVQGANConfig": "configuration_maskgit_vqgan",
    "MaskGitVQGANModel": "modeling_maskgit_vqgan",
    "TiTokConfig": "configuration_titok",
    "TiTokImageProcessor": "image_processing_titok",
    "TiTokImageProcessorPil": "image_processing_pil_titok",
    "TiTokModel": "modeling_titok",
    "TiTokPipeline": "pipeline_titok",
    "bundled_checkpoint": "bundled",
}

__all__ = [
    "MaskGitScheduler",
    "MaskGitTransformer1DModel",
    "MaskGitVQGANConfig",
    "MaskGitVQGANModel",
    "TiTokConfig",
    "TiTokImageProcessor",
    "TiTokImageProcessorPil",
    "TiTokModel",
    "TiTokPipeline",
    "bundled_checkpoint",
]


def __getattr__(name: str) -> object:
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'titok_hf' has no attribute {name!r}. Public names: {', '.join(__all__)}.")
    value = getattr(import_module(f"titok_hf.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
