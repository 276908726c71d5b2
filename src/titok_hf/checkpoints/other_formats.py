"""Lets `from_pretrained` read checkpoints of another format, without a model knowing that format.

Models stand below the room that knows a format, so they cannot import it. The package's `__init__`, which sees every
room, names the reader's module here, and the module is imported when a checkpoint is first loaded.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from .retries import with_retries

_reader_modules: list[str] = []
_HUB_ARGUMENTS = ("cache_dir", "local_files_only", "revision", "token")


def add_reader(module: str) -> None:
    """
    Make `from_pretrained` ask one more reader.

    Args:
        module: full name of a module with a function `read(cls, source, original_variant, **kwargs)`. It gets the
            arguments of `from_pretrained`, and returns an instance of `cls`, or None if `source` is not of its format.
    """
    if module not in _reader_modules:
        _reader_modules.append(module)


class ReadsOtherFormats:
    """Put in front of a model's library base class: `from_pretrained` then asks the readers first."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, original_variant: str | None = None, **kwargs: Any
    ) -> Any:
        """
        Load a checkpoint: one that `save_pretrained` wrote, or one of the original implementation.

        Args:
            pretrained_model_name_or_path: a folder or the id of a Hub repository, in our format or the original's; or
                a bare weights file of the original (`.bin`), which says nothing of its architecture: name it with
                `original_variant`.
            original_variant: name of the released checkpoint that a bare file or a folder without a configuration
                holds, such as `"l32"`.
            args, kwargs: those of the library's own `from_pretrained`.

        Raises:
            OSError: nothing there, a damaged file, or a pickle that holds more than tensors.
            ValueError: a checkpoint of another architecture.
        """
        for module in _reader_modules:
            read = import_module(module).read
            instance = read(cls, pretrained_model_name_or_path, original_variant=original_variant, **kwargs)
            if instance is not None:
                return instance
        # Here, since the package itself imports this module, and shall do so in no time.
        from .layout import naming

        name = getattr(cls, "config_name", None) or "config.json"
        place = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "", name)
        load = super().from_pretrained  # type: ignore[misc]
        try:
            with naming(place, arguments=kwargs):
                return with_retries(lambda: load(pretrained_model_name_or_path, *args, **kwargs))
        except OSError as error:
            component = (
                None if "subfolder" in kwargs else _component_of_pipeline(cls, pretrained_model_name_or_path, kwargs)
            )
            if component is None:
                raise
            raise OSError(
                f"{pretrained_model_name_or_path} is a whole pipeline. "
                f'Load its {cls.__name__} with subfolder="{component}".'
            ) from error


def _component_of_pipeline(cls: type, source: Any, kwargs: dict[str, Any]) -> str | None:
    """The subfolder where a saved pipeline, on disk or on the Hub, has an instance of `cls`; None if it is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from .layout import INDEX_NAME, read_json

    try:
        index = Path(str(source), INDEX_NAME)
        if not Path(str(source)).is_dir():
            where = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
            index = Path(hf_hub_download(str(source), index.name, **where))
        components = read_json(index)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError):
        return None
    names = {base.__name__ for base in cls.__mro__}
    found = (key for key, value in components.items() if isinstance(value, list) and value and str(value[-1]) in names)
    return next((key for key in found if not key.startswith("_")), None)


__all__ = ["ReadsOtherFormats", "add_reader"]
