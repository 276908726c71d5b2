"""The models that commands name: checks before anything slow begins, and loading. Imports torch only to load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from ..checkpoints.layout import EXPORT_NAME
from ..checkpoints.locations import check_location
from .console import messages

if TYPE_CHECKING:
    import torch

    from titok_hf.pipeline_titok import TiTokPipeline


def model_location(model: str | None) -> str:
    """The folder or Hub id that `--model` names; without it, the folder of the bundled model."""
    if model is not None:
        return model
    from titok_hf.bundled import bundled_checkpoint

    return str(bundled_checkpoint())


def model_name(model: str | None) -> str:
    """The name to write and show: of a local model that of its folder, because paths can have private names."""
    location = model_location(model)
    return Path(location).resolve().name if Path(location).exists() else location


def load_pipeline(
    model: str | None, device: str | None, dtype: str = "float32", engine: str | None = None
) -> TiTokPipeline:
    """
    Load a pipeline, with a spinner instead of the libraries' own progress bars. A tokenizer alone, in our format or
    the original's, becomes a pipeline without a generator. An exported model runs on its engine.

    Raises:
        OSError: the model cannot be found or read, or is of another kind.
        ValueError: a device that this machine does not have, or an engine that the model was not exported for.
    """
    check_model(model)
    location = model_location(model)
    is_pipeline = file_of(location, "model_index.json") is not None
    if engine is not None or (not is_pipeline and file_of(location, EXPORT_NAME) is not None):
        if dtype != "float32":
            raise ValueError(
                f"--dtype {dtype} is for models of PyTorch, and {location} is an export. Choose a precision of the "
                "export: --engine onnx:int8."
            )
        return _load_exported(location, device, engine)
    if not is_pipeline:
        _check_is_tokenizer(location)
    with messages.status(f"loading {escape(model_name(model))}"):
        import torch
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from titok_hf.devices import default_device
        from titok_hf.pipeline_titok import TiTokPipeline

        for logging in (diffusers_logging, transformers_logging):
            logging.disable_progress_bar()
        # Not by `to`, about which diffusers warns.
        load = TiTokPipeline.from_pretrained if is_pipeline else _of_tokenizer_alone
        pipe = load(location, dtype=getattr(torch, dtype))
        pipe.set_progress_bar_config(disable=True)
        device = device or default_device()
        try:
            return pipe.to(device)
        except (RuntimeError, AssertionError) as error:
            # torch has no common exception for an unknown device, a missing driver and a build without CUDA.
            raise ValueError(f"device {device!r} cannot be used here: {error}. Try --device cpu.") from error


def _load_exported(location: str, device: str | None, engine: str | None) -> TiTokPipeline:
    """The pipeline of an exported model; `engine` as for `--engine`."""
    if file_of(location, EXPORT_NAME) is None:
        raise ValueError(
            f"--engine {engine} is for exported models, and {location} is none. Export it first: "
            f"titok-hf export {location} -o FOLDER --format {(engine or '').partition(':')[0]}"
        )
    with messages.status(f"loading {escape(model_name(location))}"):
        from titok_hf.exported.pipeline_exported import ExportedTiTokPipeline

        name, _, precision = (engine or "").partition(":")
        pipe = ExportedTiTokPipeline.from_pretrained(location, name or None, precision or None, device)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _of_tokenizer_alone(location: str, dtype: torch.dtype) -> TiTokPipeline:
    from titok_hf.modeling_titok import TiTokModel
    from titok_hf.pipeline_titok import TiTokPipeline

    tokenizer = TiTokModel.from_pretrained(location, dtype=dtype)
    processor = TiTokPipeline.image_processor_class
    if file_of(location, "preprocessor_config.json") is None:  # as the original has none
        return TiTokPipeline(tokenizer, processor(size=tokenizer.config.image_size))
    return TiTokPipeline(tokenizer, processor.from_pretrained(location))


def _check_is_tokenizer(location: str) -> None:
    """Raise OSError if a model that is no pipeline is no tokenizer either."""
    if Path(location).is_file():
        raise OSError(
            f"{location} is a file, and a model is a folder or a Hub id. If it holds weights of the original "
            f"implementation, convert it: titok-hf convert tokenizer {location} --variant NAME -o FOLDER"
        )
    from titok_hf.checkpoints.folders import kind_of, read_json

    folder = Path(location)
    if folder.is_dir() and not (folder / "config.json").is_file():
        for place in ("model", "best_model"):
            if any((folder / place / name).is_file() for name in ("config.json", "model_index.json")):
                raise OSError(f"{location} is the folder of a training run. Its model is {folder / place}.")
        kind_of(folder)  # says what such a folder is not
    path = file_of(location, "config.json")
    config = read_json(path) if path is not None else {}
    nested = config.get("model")
    is_original = isinstance(nested, dict) and "vq_model" in nested
    if config.get("model_type") != "titok" and not is_original:
        names = {"maskgit_vqgan": "a MaskGIT-VQGAN", "MaskGitTransformer1DModel": "a generator without its tokenizer"}
        kind = str(config.get("_class_name") or config.get("model_type"))
        raise OSError(
            f"{location} is {names.get(kind, 'no TiTok model')}, and this command needs a pipeline or a tokenizer."
        )


def check_model(model: str | None, revision: str | None = None, needs_folder: bool = False) -> None:
    """
    Check that what `--model` or an argument names is there, on this machine or on the Hub; None is the bundled model.

    Raises:
        OSError: it is not there; there is no connection and nothing of it in the cache; or it is a file, as weights of
            the original are, though `needs_folder`.
        ValueError: a revision of a model that is not on the Hub.
    """
    if model is not None and not check_location(model):
        from titok_hf.checkpoints.connection import check_on_hub

        with messages.status("asking the Hub"):
            check_on_hub(model, revision=revision)
        return
    if needs_folder and model is not None and not Path(model).is_dir():
        raise NotADirectoryError(f"{model} is no folder, and a model is a folder or a Hub id. Name its folder.")
    if revision is not None:
        raise ValueError(
            f"--revision {revision} is for models on the Hub, and {model or 'the model of titok-hf'} lies on this "
            "machine. Leave it out."
        )


def check_push(repo_id: str | None, repo_type: str) -> None:
    """Check that the repository of `--push-to-hub`, if one is named, can be written to."""
    if repo_id is not None:
        from titok_hf.checkpoints.connection import check_push as check

        with messages.status("asking the Hub"):
            check(repo_id, repo_type)


def file_of(model: str, name: str) -> Path | None:
    """A small file of a model on this machine or on the Hub (then it is downloaded); None if it has no such file."""
    from titok_hf.checkpoints.connection import small_file

    return small_file(model, name)
