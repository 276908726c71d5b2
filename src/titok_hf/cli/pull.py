"""`titok-hf pull`: a repository of the Hub to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..checkpoints.locations import check_is_hub_id
from .console import answer, messages
from .options import AsJson, Revision, Variant


def pull(
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="A Hub repository.", show_default=False)],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Where to put it; by default the cache.", show_default=False),
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    as_json: AsJson = False,
) -> None:
    """
    Download a checkpoint or a data set of titok-hf, and print the folder in which it lies.

    Only the files that are needed are fetched, and only those that the cache has not got. FOLDER appears when it is
    complete.

    **Examples**

    `titok-hf pull user/my-titok`

    `titok-hf pull user/my-titok my-titok --revision v1.0`
    """
    check_is_hub_id(repo_id)
    with messages.status(f"downloading {escape(repo_id)}"):
        from titok_hf.checkpoints.pull import pull as pull_folder

        pulled = pull_folder(repo_id, folder, revision=revision, variant=variant)
    values = {"kind": pulled.kind.value, "repo_id": repo_id, "folder": pulled.folder, "files": pulled.files}
    answer(values, as_json, escape(str(pulled.folder)))


__all__ = ["pull"]
