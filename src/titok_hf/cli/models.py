"""From what `--model` says to a pipeline that is ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from .console import messages

if TYPE_CHECKING:
    from titok_hf.pipeline_titok import TiTokPipeline


def model_location(model: str | None) -> str:
    """The folder or Hub id that `--model` names; without it, the folder of the bundled model."""
    if model is not None:
        return model
    from titok_hf.bundled import bundled_checkpoint

    return str(bundled_checkpoint())


def model_name(model: str | None) -> str:
    """What to call the model in files and on the screen: the bundled one by its name, not by where it is installed."""
    return model if model is not None else Path(model_location(None)).name


def load_pipeline(model: str | None, device: str | None) -> TiTokPipeline:
    """
    Load a pipeline with a spinner in place of the libraries' own bars.

    Raises:
        OSError: the model cannot be found or read.
        ValueError: a device that this machine does not have.
    """
    with messages.status(f"loading {escape(model_name(model))}"):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from titok_hf.devices import default_device
        from titok_hf.pipeline_titok import TiTokPipeline

        for logging in (diffusers_logging, transformers_logging):
            logging.disable_progress_bar()
        pipe = TiTokPipeline.from_pretrained(model_location(model))
        pipe.set_progress_bar_config(disable=True)
        device = device or default_device()
        try:
            return pipe.to(device)
        except (RuntimeError, AssertionError) as error:
            # torch has no common exception for an unknown device, a missing driver and a build without CUDA.
            raise ValueError(f"device {device!r} cannot be used here: {error}. Try --device cpu.") from error


__all__ = ["load_pipeline", "model_location", "model_name"]
