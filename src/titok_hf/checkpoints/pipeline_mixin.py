"""The mixin of the pipeline: loading, downloading and saving as a whole, from safetensors only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from .connection import clear_errors, with_retries
from .layout import HUB_ARGUMENTS, INDEX_NAME, checkpoint_atomically, naming, read_index
from .mixin import PushMixin
from .remote_code import LoadedByDiffusers

# The files of a pipeline. Weights are safetensors only: pickles run code when opened, so they are not even downloaded;
# nor are optimizer states, or other models in the same repository.
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


class PipelineCheckpointMixin(PushMixin, LoadedByDiffusers):
    """Comes before `DiffusionPipeline`: a pipeline with a tokenizer, an image processor, a generator, a scheduler."""

    image_processor_class: type[Any]
    """Reads the saved settings of the image processor, whichever class saved them."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """
        Load a pipeline from a folder or from the Hub. Weights are read from safetensors only, never from pickles.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, or the id of a Hub repository.
            kwargs: as for any diffusers pipeline: `dtype` (by default that of the saved weights, in every part),
                `variant`, `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, `device_map`,
                or parts to use instead of the saved ones; and `subfolder`, where in the folder or repository the
                pipeline lies.

        Raises:
            OSError: no checkpoint there, a damaged one, or one that a newer titok_hf saved.
            ValueError: `use_safetensors=False`.
            NotImplementedError: a `device_map` that diffusers does not know or this machine has no device for.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(
                "use_safetensors is False, but pickles run code when opened and are not read. Leave it out."
            )
        folder = Path(cls.download(pretrained_model_name_or_path, **kwargs))
        kwargs.pop("subfolder", None)
        with naming(folder, "cannot be loaded", list(kwargs)):
            if "image_processor" not in kwargs:
                processor = cls.image_processor_class.from_pretrained(folder, subfolder="image_processor")
                kwargs["image_processor"] = processor
            pipe = super().from_pretrained(folder, use_safetensors=True, **kwargs)  # type: ignore[misc]
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipe

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs: Any) -> str:
        """
        The local folder of a saved pipeline. One on the Hub is downloaded into the cache: configurations and
        safetensors, no executable files.

        Args:
            pretrained_model_name: a folder, or the id of a Hub repository ("user/name").
            kwargs: `variant`, `subfolder` and the arguments of the download, as for `from_pretrained`.

        Raises:
            OSError: neither a folder nor a repository, no access, no network; no `model_index.json`, or one that a
                newer titok_hf wrote.
        """
        folder = Path(pretrained_model_name)
        if folder.is_dir():
            folder = folder / (kwargs.get("subfolder") or "")
        else:
            hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
            folder = _download(str(pretrained_model_name), kwargs.get("variant"), **hub_arguments)
        read_index(folder)
        return str(folder)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save all parts, the index and a model card. The folder changes only when everything has been written.

        Args:
            save_directory: the folder; other files in it stay, and so does a card that a person edited.
            safe_serialization: as in diffusers, but False raises an error, because pickles are not written.
            variant: name of the weights' variant, such as "fp16".
            max_shard_size: largest size of a weights file ("5GB").
            push_to_hub: whether to upload as well; `kwargs` go to `push_to_hub` then.

        Raises:
            ValueError: `safe_serialization=False`, or an adapter that is loaded but not part of the weights.
            OSError: the folder cannot be written.
        """
        if getattr(self.transformer, "peft_config", None):  # type: ignore[attr-defined]
            raise ValueError(
                "The transformer has LoRA adapters, which a pipeline is not saved with. Call fuse_lora() and "
                "unload_lora_weights() first, or unload_lora_weights() alone to save it without them."
            )
        if not safe_serialization:
            raise ValueError("safe_serialization is False, but pickles are not written. Leave it out.")
        from .cards import write_model_card
        from .folders import forget_origins

        with checkpoint_atomically(save_directory) as folder:
            super().save_pretrained(folder, variant=variant, max_shard_size=max_shard_size)  # type: ignore[misc]
            forget_origins(folder)
            # `transformers.pipeline` looks for it beside the model's configuration.
            self.image_processor.save_pretrained(folder / "tokenizer")  # type: ignore[attr-defined]
            write_model_card(folder, destination=save_directory)
        if push_to_hub:
            self._push_after_saving(save_directory, {"variant": variant, "max_shard_size": max_shard_size} | kwargs)


def _download(repository: str, variant: str | None, subfolder: str | None = None, **hub_arguments: Any) -> Path:
    """The folder in the cache with the files of a pipeline."""
    top = f"{subfolder.strip('/')}/" if subfolder else ""

    def fetch(weights: list[str]) -> Path:
        patterns = [top + pattern for pattern in _SMALL_FILES + weights]
        fetched = with_retries(lambda: snapshot_download(repository, allow_patterns=patterns, **hub_arguments))
        return Path(fetched, top)

    try:
        with clear_errors(repository):
            folder = fetch([pattern for part in _WEIGHTS for pattern in _weight_patterns(part, variant)])
            plain = [part for part in _WEIGHTS if variant and not any((folder / part).glob("*.safetensors"))]
            if any((folder / part).is_dir() for part in plain):  # parts without such a variant
                fetch([pattern for part in plain for pattern in _weight_patterns(part, None)])
    except ValueError as error:  # no id of a repository: libraries raise OSError for a path that does not exist
        raise OSError(str(error)) from None
    return folder


def _weight_patterns(part: str, variant: str | None) -> list[str]:
    """The weights of one part: in one file, or in numbered ones."""
    name = f"{part}/{_WEIGHTS[part]}" + (f".{variant}" if variant else "")
    return [f"{name}.safetensors", f"{name}-?????-of-?????.safetensors"]
