"""`titok-hf push` and `titok-hf pull`: a saved folder to the Hub, and a repository of the Hub to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.panel import Panel

from ..checkpoints.locations import check_is_hub_id
from .console import answer, bold, messages
from .options import AsJson, Revision, Variant

if TYPE_CHECKING:
    from titok_hf.checkpoints.push import Pushed


def push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A saved pipeline, tokenizer, generator, MaskGIT-VQGAN or data set.",
            show_default=False,
        ),
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="The Hub repository, made if missing.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch to commit to, made if missing. By default main.", show_default=False),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    message: Annotated[
        str | None, typer.Option("--message", help="Message of the commit.", show_default=False)
    ] = None,
    variant: Variant = None,
    replace_card: Annotated[
        bool,
        typer.Option("--replace-card", help="Upload your own README.md even if the one on the Hub was edited there."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Upload what `save_pretrained`, training, `prepare` or `pretokenize` wrote, in one commit.

    A model card is added if there is none. Log in first: `hf auth login`.

    **Examples**

    `titok-hf push my-titok user/my-titok --private`

    `titok-hf push my-titok user/my-titok --create-pr --message "Train longer"`
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} {'is a file' if folder.exists() else 'does not exist'}.")
    with messages.status(f"uploading {escape(str(folder))}"):
        from titok_hf.checkpoints.push import push_folder

        pushed = push_folder(
            folder,
            repo_id,
            # None leaves it to the organisation, whose default may be private.
            private=private or None,
            revision=revision,
            create_pr=create_pr,
            message=message,
            variant=variant,
            replace_card=replace_card,
        )
    answer({**vars(pushed), "kind": pushed.kind.value}, as_json, Panel.fit(_summary(pushed), title="pushed"))


def _summary(pushed: Pushed) -> str:
    """What was uploaded, removed and kept, in lines of Rich markup."""
    lines = [f"{pushed.kind.value}, {len(pushed.files)} files, in {bold(pushed.repo_id)}", escape(pushed.address)]
    if pushed.deleted:
        lines.append(f"removed there: {escape(', '.join(pushed.deleted))}")
    if pushed.left_out:
        lines.append(f"not uploaded: {escape(', '.join(pushed.left_out))}")
    if pushed.card_kept:
        lines.append("the model card on the Hub was edited there and is kept; --replace-card uploads yours")
    return "\n".join(lines)


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
