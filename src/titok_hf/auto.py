"""Registers the classes and tasks of this package with the Auto classes and `pipeline` of transformers.

`import titok_hf` does not import transformers, to stay fast. Each function of `REGISTRATIONS` runs when the module of
transformers that it needs has been imported: at once, or at the end of the outermost import of transformers or
titok_hf. Not earlier, because transformers imports `AutoModel` in the middle of `modeling_layers`, which our models
import. A finder in `sys.meta_path` counts nested imports; it is removed when everything is registered.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_configurations() -> None:
    """Register the model types "titok" and "maskgit_vqgan" with `AutoConfig`."""
    from transformers import AutoConfig

    from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
    from titok_hf.configuration_titok import TiTokConfig

    for config_class in (TiTokConfig, MaskGitVQGANConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_models() -> None:
    """Register `TiTokModel` and `MaskGitVQGANModel` with `AutoModel`."""
    from transformers import AutoModel

    from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
    from titok_hf.modeling_titok import TiTokModel

    for model_class in (TiTokModel, MaskGitVQGANModel):
        AutoModel.register(model_class.config_class, model_class, exist_ok=True)


def register_image_processors() -> None:
    """Register both image processors with `AutoImageProcessor`, which takes the Pil one without torchvision."""
    from transformers import AutoImageProcessor

    from titok_hf.configuration_titok import TiTokConfig
    from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
    from titok_hf.image_processing_titok import TiTokImageProcessor

    classes = {"pil": TiTokImageProcessorPil, "torchvision": TiTokImageProcessor}
    AutoImageProcessor.register(TiTokConfig, image_processor_classes=classes, exist_ok=True)


def register_tasks() -> None:
    """Register "image-to-codes", "codes-to-image" and "image-to-latents" with `transformers.pipeline`."""
    from transformers import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from titok_hf.tasks import TASKS

    for task, pipeline_class in TASKS.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=AutoModel, type="image")


REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_configurations,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.image_processing_auto": register_image_processors,
    "transformers.pipelines": register_tasks,
}
"""Module of transformers -> what can be registered once it is imported."""


class RegisteringFinder:  # not of importlib.abc, whose import takes longer than that of this package
    """Runs each of `REGISTRATIONS` once, after the import of its module, when no import is running."""

    def __init__(self) -> None:
        self._waiting = dict(REGISTRATIONS)
        self._thread = threading.local()  # `depth`: number of nested imports that are running in this thread

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the other finders, with a loader that counts imports."""
        if fullname.partition(".")[0] not in ("transformers", "titok_hf"):
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._execute, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        self._thread.depth = getattr(self._thread, "depth", 0) + 1
        try:
            execute(module)
        finally:
            self._thread.depth -= 1
        if self._thread.depth == 0:
            self.register()

    def register(self) -> None:
        """Run the registrations that are possible now."""
        for name in [name for name in self._waiting if name in sys.modules]:
            # Removed first, because the imports of a registration call this function too.
            registration = self._waiting.pop(name, None)
            if registration is not None:
                registration()
        if not self._waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


def register_auto_classes_when_imported() -> None:
    """Register now with what is imported already, and with the rest after its import."""
    finder = RegisteringFinder()
    sys.meta_path.insert(0, finder)
    finder.register()
