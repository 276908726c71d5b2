"""How our models get to disk and back: from safetensors, whole or not at all, whichever library they are built on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .layout import (
    check_depth,
    check_finite_weights,
    check_weights,
    check_weights_index,
    checkpoint_atomically,
    naming,
    read_json,
    stored_tensors,
)

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_PUSH_ARGUMENTS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
# With these the tensors of the model are not those of the files, which then are the library's to judge.
_OTHER_TENSORS = ("state_dict", "quantization_config", "key_mapping", "gguf_file")


class SafetensorsOnly:
    """Put in front of a model's library base class: weights come from safetensors, and are read and saved whole."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As the library's own, which would fill gaps in the weights with random numbers and fall back to a pickle.

        Args:
            pretrained_model_name_or_path, args, kwargs: the library's. `output_loading_info=True` returns the names
                that are missing or unknown instead of refusing them; `ignore_mismatched_sizes=True` initialises
                tensors of another shape anew.

        Raises:
            ValueError: `use_safetensors=False`.
            OSError: no safetensors there, or files that are damaged, name others outside of their folder, do not fit
                one another, or hold numbers that are not finite.
        """
        if kwargs.setdefault("use_safetensors", True) is False:
            raise ValueError(
                "use_safetensors is False, but pickles run code when opened and are not read. Leave it out."
            )
        source = pretrained_model_name_or_path
        files = _Files(cls, source, kwargs)
        files.check()
        kwargs |= files.revision
        if files.weights:
            kwargs.pop("force_download", None)  # they have just been
        with naming(source, "cannot be loaded", kwargs):
            loaded = super().from_pretrained(source, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_finite_weights(source or "state_dict", model.state_dict())
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        As the library's own, and the folder changes only when everything has been written: weights of the same
        variant are replaced in whatever form they are there, and all other files stay.

        Args:
            save_directory: the folder; made if missing.
            is_main_process: whether this process is the one that writes.
            variant: name of the weights' variant, such as "fp16".
            max_shard_size: largest size of a weights file ("5GB").
            push_to_hub: whether to upload as well, with `repo_id` and others of `push_to_hub` from `kwargs`.
            kwargs: the library's.

        Raises:
            OSError: the folder cannot be written.
        """
        kwargs |= {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        kwargs |= {"is_main_process": is_main_process, "variant": variant}
        # Where several processes write, each a part of the whole, the library knows who does what.
        if not is_main_process or kwargs.get("distributed_checkpoint"):
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)  # type: ignore[misc]
            return
        hub_arguments = {name: kwargs.pop(name) for name in _PUSH_ARGUMENTS if name in kwargs}
        with checkpoint_atomically(save_directory) as folder:
            super().save_pretrained(folder, **kwargs)  # type: ignore[misc]
        if push_to_hub:
            name = hub_arguments.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            shared = {"variant": variant, "max_shard_size": max_shard_size}
            shared = {name: value for name, value in shared.items() if value is not None}
            self.push_to_hub(name, **shared, **hub_arguments)  # type: ignore[attr-defined]


class _Files:
    """
    The files of one model in the format of its library, on this machine: those of the Hub are downloaded.

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
        # The commit that the configuration is of: what is checked is what is loaded, though somebody pushes meanwhile.
        self.revision: dict[str, str] = {}
        if isinstance(source, str | os.PathLike) and not any(kwargs.get(name) is not None for name in _OTHER_TENSORS):
            self.config = self._find("config.json")
            self.weights = [] if self.config is None else self._find_weights()

    def check(self) -> None:
        """Compare the files with one another before the library takes memory for what they claim."""
        if self.config is None:
            self._check_configuration_is_given()
            return
        values = read_json(self.config)
        if values.get("quantization_config") is not None:
            return
        stored = stored_tensors(self.weights)
        names = not self.kwargs.get("output_loading_info")
        if self.weights and names:
            check_depth(self.config, values, len(stored))
        with naming(self.config):
            expected = self._expected(values)
        given = self._given(values)
        if given is not None:
            expected = self._expected(given)
        if self.weights:
            check_weights(
                self.source,
                stored,
                expected,
                names=names,
                shapes=not self.kwargs.get("ignore_mismatched_sizes"),
            )

    def _check_configuration_is_given(self) -> None:
        """Without one transformers takes the default configuration for that of the weights."""
        asked = ("config", "state_dict", "gguf_file")
        is_folder = isinstance(self.source, str | os.PathLike) and Path(self.source).is_dir()
        if not is_folder or any(self.kwargs.get(name) is not None for name in asked):
            return
        folder = Path(self.source, self.kwargs.get("subfolder") or "")
        if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
            raise FileNotFoundError(f"{folder} has no config.json, so it holds no {self.cls.__name__}.")

    def _given(self, values: dict[str, Any]) -> Any:
        """The configuration that the caller asks for where it is not that of the file."""
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
        """A file of the checkpoint, or None where there is none: that is the library's to report."""
        place = {name: self.kwargs[name] for name in _HUB_ARGUMENTS if self.kwargs.get(name) is not None}
        place |= self.revision
        if Path(self.source).is_dir():
            path = Path(self.source, place.get("subfolder", ""), name)
            return path if os.path.lexists(path) else None  # also a link to nothing, which is damage
        from transformers.utils import cached_file
        from transformers.utils.hub import extract_commit_hash

        try:
            path = cached_file(self.source, name, **place)
        except (OSError, ValueError):
            return None
        commit = extract_commit_hash(path, None)
        self.revision = {} if commit is None else {"revision": commit}
        return Path(path)


__all__ = ["SafetensorsOnly"]
