"""Descriptions of saved folders, from their configuration files and the headers of their weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from ..guidance_scales import with_present_scale
from ..sampler_settings import used_settings
from .layout import EXPORT_NAME, INDEX_NAME, VERSION_KEY, read_index, read_json, stored_tensors, variant_of


class Kind(Enum):
    """What can be saved, described and pushed; the value is its name for users."""

    PIPELINE = "pipeline"
    TOKENIZER = "tokenizer"
    VQGAN = "MaskGIT-VQGAN"
    GENERATOR = "generator"
    DATA_SET = "data set"

    @property
    def repo_type(self) -> str:
        """What the Hub calls a repository of this kind."""
        return "dataset" if self is Kind.DATA_SET else "model"


@dataclass(frozen=True)
class Weights:
    """
    Args:
        num_parameters: count in the safetensors files of the first variant.
        num_bytes: size of these files.
        variants: names of the variants ("fp16"); None, for the plain weights, comes first.
    """

    num_parameters: int
    num_bytes: int
    variants: tuple[str | None, ...]


@dataclass(frozen=True)
class Description:
    """
    Args:
        kind: what the folder holds.
        saved_by: version of titok_hf that saved it, where that is recorded.
        configurations: part ("tokenizer", "transformer", "scheduler", "vqgan") -> its saved configuration.
        weights: part -> its weights.
        classes: names of the classes that a pipeline generates, by number.
        has_image_processor: whether a single model has the settings of an image processor beside it.
    """

    kind: Kind
    saved_by: str | None = None
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    has_image_processor: bool = False

    @property
    def tokenizer(self) -> dict[str, Any] | None:
        """Configuration of the tokenizer, if there is one."""
        return self.configurations.get("tokenizer")

    @property
    def has_codebook(self) -> bool:
        """Whether the tokens of the tokenizer are codes."""
        from transformers import AutoConfig  # which imports torch

        return AutoConfig.for_model(**(self.tokenizer or {})).has_codebook

    @property
    def transformer(self) -> dict[str, Any] | None:
        """Configuration of the generator, if there is one."""
        return self.configurations.get("transformer")


# Kinds whose folder holds one part: the part, and the key and value in its config.json that identify it.
_SINGLE_PARTS = {
    Kind.TOKENIZER: ("tokenizer", "model_type", "titok"),
    Kind.VQGAN: ("vqgan", "model_type", "maskgit_vqgan"),
    Kind.GENERATOR: ("transformer", "_class_name", "MaskGitTransformer1DModel"),
}
IMAGE_PROCESSOR_NAME = "preprocessor_config.json"
_CONFIGURATION_FILES = {"scheduler": "scheduler_config.json"}


def kind_of(folder: Path) -> Kind:
    """
    The kind of what a folder holds.

    Raises:
        OSError: nothing of this package, an unfinished data set, or a damaged configuration.
    """
    if (folder / INDEX_NAME).is_file():
        index = read_index(folder)
        name = index.get("_class_name")
        # diffusers records a pipeline of another package by module and class. A user's subclass has another name, but
        # is saved with the version of this package.
        if (name[-1] if isinstance(name, list) else name) != "TiTokPipeline" and VERSION_KEY not in index:
            raise OSError(f"{folder} is a pipeline of the class {name}, not a TiTokPipeline.")
        return Kind.PIPELINE
    if any((folder / "data").glob("*.parquet")):
        if not (folder / "README.md").is_file():
            raise OSError(f"The data set in {folder} is not finished: it has no card yet. Call its command again.")
        return Kind.DATA_SET
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        for kind, (_, key, value) in _SINGLE_PARTS.items():
            if config.get(key) == value:
                return kind
    if (folder / EXPORT_NAME).is_file():
        raise OSError(
            f"{folder} is an exported model, without weights for PyTorch. Its {EXPORT_NAME} describes it, and "
            "`hf upload` uploads it."
        )
    raise OSError(
        f"{folder} is not a TiTok pipeline, nor a tokenizer, generator, MaskGIT-VQGAN or data set of titok_hf. Give a "
        "folder that `save_pretrained`, `titok-hf prepare` or `titok-hf pretokenize` wrote."
    )


def describe(folder: Path) -> Description:
    """
    The description of a checkpoint folder.

    Raises:
        OSError: as `kind_of`, or a part is missing or damaged.
    """
    kind = kind_of(folder)
    if kind is Kind.DATA_SET:
        return Description(kind)
    if kind is Kind.PIPELINE:
        index = read_index(folder)
        places = {
            part: folder / part
            for part in ("tokenizer", "transformer", "scheduler")
            if (index.get(part) or [None])[0] is not None
        }
        classes = {int(label): name for label, name in (index.get("id2label") or {}).items()}
    else:
        index, classes = {}, {}
        places = {_SINGLE_PARTS[kind][0]: folder}
        if (folder / _CONFIGURATION_FILES["scheduler"]).is_file():
            places["scheduler"] = folder
    configurations = {
        part: read_json(place / _CONFIGURATION_FILES.get(part, "config.json")) for part, place in places.items()
    }
    if "scheduler" in configurations:
        configurations["scheduler"] = used_settings(with_present_scale(configurations["scheduler"]))
    return Description(
        kind=kind,
        saved_by=index.get(VERSION_KEY),
        configurations=configurations,
        weights={part: read_weights(place) for part, place in places.items() if part != "scheduler"},
        classes=dict(sorted(classes.items())),
        has_image_processor=(folder / IMAGE_PROCESSOR_NAME).is_file(),
    )


def forget_origins(folder: Path) -> None:
    """Remove from all configurations the path that a part was loaded from: it has no meaning on other machines."""
    for path in folder.rglob("*.json"):
        configuration = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(configuration, dict) and configuration.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> Weights:
    """Parameters and bytes of one part, from the headers of its safetensors files."""

    def num_parameters(name: str) -> int:
        return sum(math.prod(shape) for shape, _ in stored_tensors([folder / name]).values())

    return weights_among({path.name: path.stat().st_size for path in folder.glob("*.safetensors")}, num_parameters)


def weights_among(sizes: Mapping[str, int], num_parameters: Callable[[str], int]) -> Weights:
    """
    Parameters and bytes of one part.

    Args:
        sizes: bytes of each file of its folder, by name.
        num_parameters: counts the parameters in a safetensors file.
    """
    files: dict[str | None, list[str]] = {}
    for name in sizes:
        if name.endswith(".safetensors"):
            files.setdefault(variant_of(name), []).append(name)
    variants = tuple(sorted(files, key=lambda variant: (variant is not None, variant)))
    shown = files[variants[0]] if variants else []
    return Weights(sum(map(num_parameters, shown)), sum(sizes[name] for name in shown), variants)
