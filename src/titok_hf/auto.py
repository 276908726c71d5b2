"""Makes AutoConfig, AutoModel, AutoImageProcessor and `pipeline` know the classes and tasks of this package.

After `import titok_hf`, `AutoModel.from_pretrained(folder)` must find `TiTokModel`, whichever of titok_hf and
transformers was imported first, and yet `import titok_hf` must not import transformers. So each registration waits for
the module of transformers that it needs: it runs at once where that module is already imported, and otherwise when it
has been, which a finder in `sys.meta_path` sees.

"Has been" means that no import of transformers or titok_hf is under way any more. Not earlier: transformers imports
`AutoModel` half-way through its `modeling_layers`, which our models need complete, and our own modeling files may be
the ones that asked for it. The finder therefore counts the imports of both packages, changes nothing else about them,
and stands aside once everything is registered.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_configurations() -> None:
    """Register the model types "titok" and "maskgit_vqgan" with `AutoConfig`."""
    from transformers import AutoConfig

    from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
    from titok_hf.configuration_titok import TiTokConfig

    AutoConfig.register("titok", TiTokConfig, exist_ok=True)
    AutoConfig.register("maskgit_vqgan", MaskGitVQGANConfig, exist_ok=True)


def register_models() -> None:
    """Register `TiTokModel` and `MaskGitVQGANModel` with `AutoModel`."""
    from transformers import AutoModel

    from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
    from titok_hf.configuration_titok import TiTokConfig
    from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
    from titok_hf.modeling_titok import TiTokModel

    AutoModel.register(TiTokConfig, TiTokModel, exist_ok=True)
    AutoModel.register(MaskGitVQGANConfig, MaskGitVQGANModel, exist_ok=True)


def register_image_processors() -> None:
    """Register both image processors with `AutoImageProcessor`, which takes the Pil one without torchvision."""
    from transformers import AutoImageProcessor

    from titok_hf.configuration_titok import TiTokConfig
    from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
    from titok_hf.image_processing_titok import TiTokImageProcessor

    AutoImageProcessor.register(
        TiTokConfig,
        image_processor_classes={"pil": TiTokImageProcessorPil, "torchvision": TiTokImageProcessor},
        exist_ok=True,
    )


def register_tasks() -> None:
    """
    Register "image-to-codes" and "codes-to-image" with `transformers.pipeline`, and let "image-feature-extraction"
    give latents.
    """
    from transformers import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from titok_hf.tasks import TASKS, TiTokFeatureExtractionPipeline

    for task, pipeline_class in TASKS.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=AutoModel, type="image")
    # Not by `register_pipeline`, which would replace the rest of the task too, and warn of it.
    PIPELINE_REGISTRY.supported_tasks["image-feature-extraction"]["impl"] = TiTokFeatureExtractionPipeline


REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_configurations,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.image_processing_auto": register_image_processors,
    "transformers.pipelines": register_tasks,
}
"""Module of transformers -> what can be registered once it is imported."""


class _ImportsUnderWay(threading.local):
    """Number of nested imports of transformers and titok_hf in the current thread."""

    count = 0


class RegisteringFinder(MetaPathFinder):
    """Runs each of `REGISTRATIONS` once, after the import of its module and when no import is under way."""

    def __init__(self) -> None:
        self._waiting = dict(REGISTRATIONS)
        self._imports_under_way = _ImportsUnderWay()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the finders behind this one find the module, and count the time of its execution as an import."""
        if not self._waiting or fullname.partition(".")[0] not in ("transformers", "titok_hf"):
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _CountingLoader(spec.loader, self)
                return spec
        return None

    def execute(self, module: ModuleType, loader: Loader) -> None:
        """Execute a module with its own loader, and register what has become possible if it was the outermost one."""
        self._imports_under_way.count += 1
        try:
            loader.exec_module(module)
        finally:
            self._imports_under_way.count -= 1
        self.register()

    def register(self) -> None:
        """Run the registrations that are possible now."""
        if self._imports_under_way.count:
            return
        for name in [name for name in self._waiting if name in sys.modules]:
            # Taken off the list first: the modules that it imports come back here when they are complete.
            registration = self._waiting.pop(name, None)
            if registration is not None:
                registration()


class _CountingLoader(Loader):
    """Stands in for the loader of one module until that module is executed."""

    def __init__(self, loader: Loader, finder: RegisteringFinder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> object:
        """Whatever else a loader offers: `python -m` asks for `get_code`, tracebacks for `get_source`."""
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._finder.execute(module, self._loader)


def register_auto_classes_when_imported() -> None:
    """Register with the Auto classes that are imported already, and with the others when they will be."""
    finder = RegisteringFinder()
    sys.meta_path.insert(0, finder)
    finder.register()
