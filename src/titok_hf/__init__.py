"""TiTok, the one-dimensional image tokenizer, for transformers and diffusers.

`import titok_hf` is cheap: torch, transformers and diffusers are imported when a public name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from titok_hf.auto import register_auto_classes_when_imported
from titok_hf.checkpoints.mixin import add_reader

__version__ = "0.1.0"

if TYPE_CHECKING:
    from titok_hf.bundled import bundled_checkpoint as bundled_checkpoint
    from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig as MaskGitVQGANConfig
    from titok_hf.configuration_titok import TiTokConfig as TiTokConfig
    from titok_hf.exported.pipeline_exported import ExportedTiTokPipeline as ExportedTiTokPipeline
    from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil as TiTokImageProcessorPil
    from titok_hf.image_processing_titok import TiTokImageProcessor as TiTokImageProcessor
    from titok_hf.modeling_maskgit import MaskGitTransformer1DModel as MaskGitTransformer1DModel
    from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel as MaskGitVQGANModel
    from titok_hf.modeling_titok import TiTokModel as TiTokModel
    from titok_hf.pipeline_titok import TiTokPipeline as TiTokPipeline
    from titok_hf.scheduling_maskgit import MaskGitScheduler as MaskGitScheduler

_MODULE_OF_NAME = {
    "ExportedTiTokPipeline": "titok_hf.exported.pipeline_exported",
    "MaskGitScheduler": "titok_hf.scheduling_maskgit",
    "MaskGitTransformer1DModel": "titok_hf.modeling_maskgit",
    "MaskGitVQGANConfig": "titok_hf.configuration_maskgit_vqgan",
    "MaskGitVQGANModel": "titok_hf.modeling_maskgit_vqgan",
    "TiTokConfig": "titok_hf.configuration_titok",
    "TiTokImageProcessor": "titok_hf.image_processing_titok",
    "TiTokImageProcessorPil": "titok_hf.image_processing_pil_titok",
    "TiTokModel": "titok_hf.modeling_titok",
    "TiTokPipeline": "titok_hf.pipeline_titok",
    "bundled_checkpoint": "titok_hf.bundled",
}

__all__ = list(_MODULE_OF_NAME)


def __getattr__(name: str) -> object:
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'titok_hf' has no attribute {name!r}. Public names: {', '.join(__all__)}.")
    value = getattr(import_module(_MODULE_OF_NAME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_auto_classes_when_imported()
# So that `from_pretrained` reads the original's files; the import contracts do not let models import that module.
add_reader("titok_hf.original.loading")
