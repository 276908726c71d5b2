"""Lets transformers and diffusers load a checkpoint in a process that has not imported titok_hf.

With `trust_remote_code=True` they run a Python file of the checkpoint. Ours only imports this package, or says how to
install it, so a checkpoint never has an old copy of the code. The two libraries look for it in these places:

- transformers: beside the configuration, whose `auto_map` names file and class; for a part of a pipeline on the Hub,
  which is loaded with `subfolder=`, at the top of the repository;
- diffusers: at the top, where `_class_name` in `model_index.json` names file and class, and in the folder of each part
  under the name of the module that the index records for that part.

The classes of this package do not need these files and never run them.
"""

import json
import os
from pathlib import Path
from typing import Any

from transformers import ImageProcessingMixin
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from .atomic_files import write_atomically
from .layout import naming

REMOTE_MODULE = "titok"

REMOTE_CODE = '''\
"""This checkpoint is loaded by the package titok-hf; this file only imports it.

transformers and diffusers run it when they are asked to load the checkpoint with `trust_remote_code=True`.
"""

try:
    import titok_hf
except ModuleNotFoundError as error:
    raise ImportError(
        "This checkpoint needs the package titok-hf, which cannot be imported here. Install it with "
        "`pip install titok-hf`."
    ) from error


def __getattr__(name):
    return getattr(titok_hf, name)
'''


def write_remote_code(folder: str | os.PathLike, module: str = REMOTE_MODULE) -> None:
    """Write the file `module` (without ".py") into a folder of a checkpoint, which is made if missing."""
    write_atomically(Path(folder) / f"{module}.py", REMOTE_CODE.encode())


class LoadedByAutoClasses:
    """A mixin before the base class of a configuration or image processor of transformers: saves the file too."""

    auto_classes: dict[str, Any] = {}
    """The `auto_map` to save: Auto class -> "module.Class"; for image processors a list of two (with torchvision)."""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "") -> None:
        """Does nothing: otherwise transformers would copy this package's modules into every checkpoint."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the library's own; OSError for a missing or damaged file, ValueError for wrong arguments."""
        name = IMAGE_PROCESSOR_NAME if issubclass(cls, ImageProcessingMixin) else CONFIG_NAME
        place = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "", name)
        with naming(place, arguments=kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As the library's own, with the file by which the Auto classes load the folder with `trust_remote_code`."""
        write_remote_code(save_directory)
        self.auto_map = dict(self.auto_classes)
        saved = super().save_pretrained(save_directory)  # type: ignore[misc]
        if push_to_hub:
            name = kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self.push_to_hub(name, **kwargs)  # type: ignore[attr-defined]
        return saved


class LoadedByDiffusers:
    """
    A mixin before `DiffusionPipeline`: saves what diffusers loads with `trust_remote_code=True`; the pipeline's own
    class loads it without that.
    """

    parts_module = ""
    """A module with all classes of the parts, and with their base classes under the names that diffusers knows."""

    def to_json_string(self) -> str:
        """The index, in which the name of the file comes before the name of the class."""
        text = super().to_json_string()  # type: ignore[misc]
        if not _is_ours(type(self).__module__):  # a subclass of a user
            return text
        index = json.loads(text) | {"_class_name": [REMOTE_MODULE, type(self).__name__]}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_config(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """The index, and the files for the parts, which are saved before."""
        super().save_config(save_directory, **kwargs)  # type: ignore[misc]
        write_remote_code(save_directory)
        for part, record in json.loads(self.to_json_string()).items():
            folder = Path(save_directory, part)
            if isinstance(record, list) and folder.is_dir() and _is_ours(record[0]):
                write_remote_code(folder, record[0])

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """
        The index without names of files: diffusers demands `trust_remote_code=True` if there is a file of the name
        that is recorded for the pipeline or for a part.
        """
        loaded = super().load_config(*args, **kwargs)  # type: ignore[misc]
        index = loaded[0] if isinstance(loaded, tuple) else loaded
        for part, record in index.items():
            if isinstance(record, list) and part != "_class_name" and _is_ours(record[0]):
                index[part] = [cls.parts_module, record[1]]
        if "_class_name" in index:
            index["_class_name"] = cls.__name__
        return loaded


def _is_ours(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == "titok_hf"
