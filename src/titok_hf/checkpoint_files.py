"""Where a saved pipeline lies, on disk or on the Hub, and what its index says. Needs no torch."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.errors import HTTPError as TransportError  # of the HTTP library that huggingface_hub uses
from packaging.version import Version
from safetensors import safe_open

from . import __version__

INDEX_NAME = "model_index.json"
VERSION_KEY = "_titok_hf_version"
# What a pipeline is read from, and nothing beside it. Weights come as safetensors only: a pickle runs code when it is
# opened, so it is not even downloaded; nor are optimizer states, or other models in the same repository.
_SMALL_FILES = [
    INDEX_NAME,
    "image_processor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/config.json",
    "tokenizer/*.index*.json",
    "transformer/config.json",
    "transformer/*.index*.json",
]
_WEIGHTS = {"tokenizer": "model", "transformer": "diffusion_pytorch_model"}


def checkpoint_folder(
    model: str | os.PathLike, variant: str | None = None, subfolder: str | None = None, **hub_arguments: Any
) -> Path:
    """
    The local folder of a saved pipeline: `model` itself, or the cached copy of a Hub repository, downloaded if needed.

    Args:
        model: a folder, or the id of a Hub repository ("user/name").
        variant: name of the weights' variant, such as "fp16"; by default the plain ones.
        subfolder: where in the folder or repository the pipeline lies.
        hub_arguments: passed to `huggingface_hub.snapshot_download` (cache_dir, force_download, local_files_only,
            token, revision).

    Raises:
        OSError: neither a folder nor a repository, no `model_index.json` in it, or one that a newer titok_hf wrote.
    """
    if Path(model).is_dir():
        folder = Path(model, subfolder or "")
    else:
        folder = _download(str(model), variant, subfolder, hub_arguments)
    read_index(folder)
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """
    The content of a pipeline folder's `model_index.json`.

    Raises:
        OSError: no index, one that is not JSON, or one that a newer version of this package wrote.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OSError(
            f"{folder} is not a TiTok pipeline: it has no {INDEX_NAME}. Give a folder that "
            "`TiTokPipeline.save_pretrained` wrote, or the id of a Hub repository."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{folder / INDEX_NAME} is damaged ({error}). Save or download the checkpoint again.") from error
    if not isinstance(index, dict):
        raise OSError(f"{folder / INDEX_NAME} is damaged: it holds no JSON object. Save or download it again.")
    written_by = index.get(VERSION_KEY, __version__)
    if Version(written_by).release > Version(__version__).release:
        raise OSError(
            f"{folder} was saved by titok_hf {written_by}, and this is {__version__}. Upgrade with "
            "`pip install -U titok-hf`."
        )
    return index


def check_weight_names(folder: Path, expected: Iterable[str]) -> None:
    """
    Compare the tensors in a folder with those that a model wants, since libraries fill a gap with random numbers.

    Args:
        folder: one part of a pipeline.
        expected: names in the state dict of the model that was loaded from it.

    Raises:
        OSError: a name that only one side has.
    """
    stored: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            stored.update(file.keys())
    expected = set(expected)
    missing, unknown = sorted(expected - stored), sorted(stored - expected)
    if missing or unknown:
        raise OSError(
            f"The weights in {folder} do not fit the configuration beside them: {_count(missing)} missing, "
            f"{_count(unknown)} unknown. Save or download the checkpoint again."
        )


def _count(names: list[str], shown: int = 3) -> str:
    """How many names there are, and the first few of them."""
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:shown])}{', ...' if len(names) > shown else ''})"


def _download(repository: str, variant: str | None, subfolder: str | None, hub_arguments: dict[str, Any]) -> Path:
    """What `checkpoint_folder` reads, from the cache or the Hub."""
    top = f"{subfolder.strip('/')}/" if subfolder else ""

    def fetch(weights: list[str]) -> Path:
        patterns = [top + pattern for pattern in _SMALL_FILES + weights]
        return Path(snapshot_download(repository, allow_patterns=patterns, **hub_arguments), top)

    try:
        folder = fetch([pattern for part in _WEIGHTS for pattern in _weight_patterns(part, variant)])
        plain = [part for part in _WEIGHTS if variant and not any((folder / part).glob("*.safetensors"))]
        if any((folder / part).is_dir() for part in plain):  # a part of which there is no such variant
            fetch([pattern for part in plain for pattern in _weight_patterns(part, None)])
    except HFValidationError:
        raise OSError(
            f"{repository!r} is neither a folder nor the id of a Hub repository. Check the path, or write the id as "
            "user/name."
        ) from None
    except (HfHubHTTPError, TransportError, LocalEntryNotFoundError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"{repository!r} is no folder here, and the Hub did not give it ({reason}). Check the name, the revision, "
            "your access and the network."
        ) from error
    return folder


def _weight_patterns(part: str, variant: str | None) -> list[str]:
    """The weights of one part: in one file, or in numbered ones."""
    name = f"{part}/{_WEIGHTS[part]}" + (f".{variant}" if variant else "")
    return [f"{name}.safetensors", f"{name}-?????-of-?????.safetensors"]


__all__ = ["INDEX_NAME", "VERSION_KEY", "check_weight_names", "checkpoint_folder", "read_index"]
