"""Loading of a checkpoint in the format of its library, which is checked before the library reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .connection import with_retries
from .layout import (
    HUB_ARGUMENTS,
    INDEX_NAME,
    check_depth,
    check_finite_weights,
    check_weights,
    check_weights_index,
    naming,
    read_json,
    stored_tensors,
)

# With these arguments the tensors of the model are not those of the files, so the files are left to the library.
_OTHER_TENSORS = ("state_dict", "quantization_config", "key_mapping", "gguf_file")


def load_naming_the_file(
    cls: type, load: Callable[..., Any], source: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """
    An instance of `cls`, a model or a class without weights, by `load`, the library's own `from_pretrained`, with its
    arguments. An error names the file that is wrong; see `ReaderMixin.from_pretrained`.
    """
    name = getattr(cls, "config_name", None) or "config.json"
    path = Path(str(source), kwargs.get("subfolder") or "", name)
    load_whole = _load_model if hasattr(cls, "state_dict") else lambda _, load, *args, **kwargs: load(*args, **kwargs)
    try:
        with naming(path, arguments=kwargs):
            return with_retries(lambda: load_whole(cls, load, source, *args, **kwargs))
    except OSError as error:
        component = None if "subfolder" in kwargs else _component_of_pipeline(cls, source, kwargs)
        if component is None:
            raise
        raise OSError(
            f'{source} is a whole pipeline. Load its {cls.__name__} with subfolder="{component}".'
        ) from error


def _load_model(cls: Any, load: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """A model from safetensors, after its files were compared; its weights must be finite."""
    if kwargs.setdefault("use_safetensors", True) is False:
        raise ValueError("use_safetensors is False, but pickles run code when opened and are not read. Leave it out.")
    files = _Files(cls, source, kwargs)
    files.check()
    if not files.of_transformers and kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
        kwargs["dtype"] = files.stored_dtype()  # as transformers does; diffusers would load them as float32
    kwargs |= files.revision
    if files.weights:
        kwargs.pop("force_download", None)  # they have just been downloaded
    with naming(source, "cannot be loaded", kwargs):
        loaded = load(source, *args, **kwargs)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    check_finite_weights(source or "state_dict", model.state_dict())
    return loaded


def _component_of_pipeline(cls: type, source: Any, kwargs: dict[str, Any]) -> str | None:
    """The subfolder of a saved pipeline, on disk or on the Hub, that holds an instance of `cls`; None without one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        index = Path(str(source), INDEX_NAME)
        if not Path(str(source)).is_dir():
            where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs and name != "force_download"}
            index = Path(hf_hub_download(str(source), index.name, **where))
        components = read_json(index)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError):
        return None
    names = {base.__name__ for base in cls.__mro__}
    found = (key for key, value in components.items() if isinstance(value, list) and value and str(value[-1]) in names)
    return next((key for key in found if not key.startswith("_")), None)


class _Files:
    """
    The files of one model in the format of its library; those on the Hub are downloaded.

    Args:
        cls: the model's class, of transformers or of diffusers.
        source, kwargs: arguments of `from_pretrained`.
    """

    def __init__(self, cls: Any, source: Any, kwargs: Mapping[str, Any]) -> None:
        self.cls = cls
        self.source = source
        self.kwargs = kwargs
        self.of_transformers = hasattr(cls, "config_class")
        self.config, self.weights = None, list[Path]()
        self.stored: dict[str, tuple[tuple[int, ...], str]] = {}
        # The commit of the configuration: the checked files are the loaded ones, even if somebody pushes meanwhile.
        self.revision: dict[str, str] = {}
        if isinstance(source, str | os.PathLike) and not any(kwargs.get(name) is not None for name in _OTHER_TENSORS):
            self.config = self._find("config.json")
            self.weights = [] if self.config is None else self._find_weights()

    def check(self) -> None:
        """Compare the files with one another before the library allocates memory for the model."""
        if self.config is None:
            self._check_configuration_is_given()
            return
        values = read_json(self.config)
        if values.get("quantization_config") is not None:
            return
        self.stored = stored = stored_tensors(self.weights)
        names = not self.kwargs.get("output_loading_info")
        if self.weights and names:
            check_depth(self.config, values, len(stored))
        with naming(self.config):
            expected = self._expected(values)
        given = self._given(values)
        if given is not None:
            expected = self._expected(given)
        if self.weights:
            shapes = not self.kwargs.get("ignore_mismatched_sizes")
            check_weights(self.source, stored, expected, names=names, shapes=shapes)

    def stored_dtype(self) -> Any:
        """The dtype of the weights, if all have the same floating dtype; else None."""
        import torch

        dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
        names = {dtype for _, dtype in self.stored.values()}
        return dtypes.get(names.pop()) if len(names) == 1 else None

    def _check_configuration_is_given(self) -> None:
        """Raise an error without a configuration, where transformers would use the default one."""
        asked = ("config", "state_dict", "gguf_file")
        is_folder = isinstance(self.source, str | os.PathLike) and Path(self.source).is_dir()
        if not is_folder or any(self.kwargs.get(name) is not None for name in asked):
            return
        folder = Path(self.source, self.kwargs.get("subfolder") or "")
        if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
            raise FileNotFoundError(f"{folder} has no config.json, so it holds no {self.cls.__name__}.")

    def _given(self, values: dict[str, Any]) -> Any:
        """The configuration that the caller asks for, if it is not that of the file."""
        config = self.kwargs.get("config")
        if config is not None:
            return config
        known = self.cls.config_class().to_dict() if self.of_transformers else self.cls._get_init_keys(self.cls)
        overrides = {name: value for name, value in self.kwargs.items() if name in known and name != "dtype"}
        return values | overrides if overrides else None

    def _expected(self, config: Any) -> dict[str, Any]:
        """Names and shapes of the model's tensors."""
        import torch

        with torch.device("meta"):
            if self.of_transformers:
                config = self.cls.config_class.from_dict(config) if isinstance(config, dict) else config
                return self.cls(config).state_dict()
            names = self.cls._get_init_keys(self.cls) - set(config.get("_use_default_values", []))
            return self.cls(**{name: value for name, value in config.items() if name in names}).state_dict()

    def _find_weights(self) -> list[Path]:
        """transformers prefers one file to shards, diffusers shards to one file."""
        stem = "model" if self.of_transformers else "diffusion_pytorch_model"
        dotted = f".{self.kwargs['variant']}" if self.kwargs.get("variant") else ""
        names = [f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"]
        if not self.of_transformers:
            names = [names[1], *([f"{stem}.safetensors{dotted}.index.json"] if dotted else []), names[0]]
        for name in names:
            path = self._find(name)
            if path is not None and path.suffix == ".json":
                return [self._find(shard.name) or shard for shard in check_weights_index(path)]
            if path is not None:
                return [path]
        return []

    def _find(self, name: str) -> Path | None:
        """A file of the checkpoint; None if it is missing, which the library reports."""
        place = {name: self.kwargs[name] for name in HUB_ARGUMENTS if self.kwargs.get(name) is not None}
        place |= self.revision
        if Path(self.source).is_dir():
            path = Path(self.source, place.get("subfolder", ""), name)
            return path if os.path.lexists(path) else None  # also a broken link, which is an error
        from transformers.utils import cached_file
        from transformers.utils.hub import extract_commit_hash

        try:
            path = cached_file(self.source, name, **place)
        except (OSError, ValueError):
            return None
        commit = extract_commit_hash(path, None)
        self.revision = {} if commit is None else {"revision": commit}
        return Path(path)
