"""Finds the files of an original checkpoint, on disk or on the Hub, and reads them without running code in them."""

import json
import os
import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file

from titok_hf.checkpoints.layout import check_finite_weights, naming

from .configs import is_original_config

_TORCH_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
_WEIGHTS_NAMES = ["model.safetensors", "pytorch_model.bin"]


@dataclass(frozen=True)
class OriginalCheckpoint:
    """
    The files of an original checkpoint.

    Args:
        weights: its weights file; None if only the configuration is needed.
        config, config_path: its `config.json`; None if the caller names the variant, or for a single file.
        variant: the caller's name for the architecture.
    """

    weights: Path | None
    config: dict[str, Any] | None = None
    variant: str | None = None
    config_path: Path | None = None

    @property
    def is_flax(self) -> bool:
        """Whether the weights are in Flax form."""
        return self.weights is not None and self.weights.suffix not in {*_TORCH_SUFFIXES, ".safetensors"}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors; OSError if one is not finite, and as [`read_state_dict`]."""
        tensors = read_state_dict(cast(Path, self.weights))
        check_finite_weights(self.weights, tensors)
        return tensors

    def naming_config(self) -> AbstractContextManager[None]:
        """A block that uses the configuration, see [`naming`]."""
        return nullcontext() if self.config_path is None else naming(self.config_path)


def find_original(
    source: Any,
    variant: str | None = None,
    released_file: str | None = None,
    needs_weights: bool = True,
    **hub_arguments: Any,
) -> OriginalCheckpoint | None:
    """
    The files of an original checkpoint, downloaded if they are on the Hub.

    Args:
        source: a weights file, a folder, or the id of a Hub repository.
        variant: the caller's name for the architecture. Without one, a folder or repository needs the original's
            `config.json`.
        released_file: published name of this variant's weights file.
        needs_weights: whether to find the weights too.
        hub_arguments: those of `HUB_ARGUMENTS` that the caller gave.

    Returns:
        None if `source` is not an original checkpoint, or does not exist.

    Raises:
        OSError: an original checkpoint without weights.
    """
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.is_file():
        return OriginalCheckpoint(path, variant=variant)
    config, config_path = None, None
    if variant is None:
        # Every load of a model comes here. A cached copy is enough to recognise the format.
        config_path = _find(source, ["config.json"], hub_arguments, prefer_cache=True)
        config = _read_json(config_path)
        if not is_original_config(config):
            return None
    weights = None
    if needs_weights:
        names = [*([released_file] if released_file else []), *_WEIGHTS_NAMES, *_checkpoint_names(config)]
        weights = _find(source, names, hub_arguments)
        if weights is None:
            raise OSError(f"{source} has no weights, or is not there. Looked for {', '.join(names)}.")
    return OriginalCheckpoint(weights, config, variant, config_path)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """
    The tensors of a weights file on the CPU: safetensors, a PyTorch pickle, or a Flax checkpoint (any other suffix).

    Raises:
        OSError: a file that is cut short or of another kind, or a pickle with anything but tensors in it.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a weights file.")
    if path.suffix in _TORCH_SUFFIXES:
        return _read_pickle(path)
    if path.suffix == ".safetensors":
        with naming(path, "is damaged, or not a safetensors file"):
            return load_file(path)
    try:
        from .flax_checkpoint import read_flax_tensors
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{path} is read as a Flax checkpoint, which needs msgpack. Run `pip install titok-hf[convert]`."
        ) from error
    with naming(path, "is not a Flax checkpoint, or is damaged"):
        return read_flax_tensors(path)


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise OSError(
            f"{path} is refused: it is damaged, or holds more than tensors, and anything else in a pickle could run "
            f"code ({_first_line(error)})."
        ) from error
    except Exception as error:  # torch raises exceptions of many kinds
        raise OSError(f"{path} is damaged, or not a PyTorch file ({_first_line(error)}). Get it again.") from error
    if not isinstance(content, Mapping):
        raise OSError(f"{path} holds a {type(content).__name__}, not a state dict.")
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise OSError(
            f"{path} is not a state dict: {len(others)} of its {len(content)} entries are no tensors "
            f"({', '.join(map(str, others[:3]))})."
        )
    return dict(content)


def _find(
    source: str | os.PathLike, names: list[str], hub_arguments: dict[str, Any], prefer_cache: bool = False
) -> Path | None:
    """The first of the named files that a folder or a Hub repository has."""
    hub_arguments = dict(hub_arguments)
    subfolder = hub_arguments.pop("subfolder", "")
    if Path(source).is_dir():
        folder = Path(source, subfolder)
        return next((folder / name for name in names if (folder / name).is_file()), None)
    for name in names:
        path = f"{subfolder}/{name}".lstrip("/")
        try:
            if prefer_cache and not hub_arguments.get("force_download"):
                where = {key: hub_arguments[key] for key in ("cache_dir", "revision") if key in hub_arguments}
                cached = try_to_load_from_cache(str(source), path, **where)
                if isinstance(cached, str):
                    return Path(cached)
            return Path(hf_hub_download(str(source), path, **hub_arguments))
        except LocalEntryNotFoundError:
            hub_arguments["local_files_only"] = True  # the Hub cannot be reached
        except EntryNotFoundError:
            continue
        except (OSError, HFValidationError):
            return None
    return None


def _checkpoint_names(config: dict[str, Any] | None) -> list[str]:
    """Names of weights files in an original configuration."""
    experiment = (config or {}).get("experiment")
    if not isinstance(experiment, Mapping):
        return []
    names = (experiment.get(key) for key in ("tokenizer_checkpoint", "generator_checkpoint"))
    return [Path(name).name for name in names if isinstance(name, str)]


def _read_json(path: Path | None) -> dict[str, Any] | None:
    """None if there is no file or it is not JSON, which `from_pretrained` then reports."""
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
