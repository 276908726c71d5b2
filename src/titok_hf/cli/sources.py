"""What commands read and where they push to, settled before anything slow begins. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.locations import check_location
from .console import messages


def check_model(model: str | None, revision: str | None = None, needs_folder: bool = False) -> None:
    """
    Look whether what `--model` or an argument names is there, on this machine or on the Hub.

    Args:
        model: what was named; None is the bundled one.
        revision: of a model on the Hub.
        needs_folder: whether a file is no answer, as a bare one of the original is.

    Raises:
        OSError: neither; or no connection, and nothing of it in the cache; or a file where a folder is needed.
        ValueError: a revision of something that has none.
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
    """
    Look whether the repository of `--push-to-hub` can be written to, if there is one.

    Raises:
        OSError: nobody is logged in, the user may not write there, or no connection.
        ValueError: an id that is none.
    """
    if repo_id is not None:
        from titok_hf.checkpoints.connection import check_push as check

        with messages.status("asking the Hub"):
            check(repo_id, repo_type)


def is_pipeline(model: str) -> bool:
    """Whether a model, which is there, is a pipeline and not a part of one."""
    from titok_hf.checkpoints.layout import INDEX_NAME

    return file_of(model, INDEX_NAME) is not None


def file_of(model: str, name: str) -> Path | None:
    """A small file of a model on this machine or on the Hub, from which it is downloaded; None if it has none."""
    from titok_hf.checkpoints.connection import small_file

    return small_file(model, name)


__all__ = ["check_model", "check_push", "file_of", "is_pipeline"]
