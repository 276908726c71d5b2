"""Uploads of a saved folder to the Hub, in one commit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from .atomic_files import write_atomically
from .cards import CARD_NAME, CardContent, is_generated, model_card, readdressed, with_new_head
from .connection import Token, check_weights, clear_errors, is_hidden, is_published, with_retries
from .folders import IMAGE_PROCESSOR_NAME, Kind, describe, forget_origins, kind_of
from .layout import INDEX_NAME, PIPELINE_FOLDERS, is_weights_file, outdated_files
from .pull import needed_files

# They run code when they are opened, so they are never uploaded.
_NEVER_UPLOADED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Without these files, and without weights, the repository could not be used.
_NEEDED_NAMES = (CARD_NAME, INDEX_NAME, "config.json", "scheduler_config.json", IMAGE_PROCESSOR_NAME)


@dataclass(frozen=True)
class Pushed:
    """
    Args:
        kind: what was uploaded.
        repo_id: the repository, with its user.
        address: of the commit, or of the pull request if one was opened.
        commit: its hash.
        files: what the commit contains, as paths in the repository.
        deleted: weights or shards that it removed, because new ones replace them under other names.
        left_out: files in the folder that were not uploaded: links out of the folder, and files of a kind that this
            package does not save. Hidden files and pickles are not listed.
        card_kept: whether a card that a person edited on the Hub was kept; in that of a data set, the list of files
            and columns is updated.
    """

    kind: Kind
    repo_id: str
    address: str
    commit: str
    files: tuple[str, ...]
    deleted: tuple[str, ...]
    left_out: tuple[str, ...]
    card_kept: bool


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    variant: str | None = None,
    replace_card: bool = False,
    token: Token = None,
) -> Pushed:
    """
    Upload a pipeline, tokenizer, generator, MaskGIT-VQGAN or data set in one commit: after a failure the repository
    and the folder are as they were. A card is added if there is none, and a generated one gets the repository's id.

    Args:
        folder: what `save_pretrained`, `titok-hf prepare` or `titok-hf pretokenize` wrote. Hidden files, pickles and
            links out of the folder are not uploaded.
        repo_id: "user/name"; made if missing.
        private: whether a new repository is private.
        revision: branch to commit to, made from main if missing.
        create_pr: whether to open a pull request instead of committing.
        message: of the commit.
        variant: upload only the weights of this variant; by default all that are there.
        replace_card: whether a card in the folder that a person wrote replaces one that a person wrote on the Hub.
        token: of the Hub user; by default the one that is logged in.

    Raises:
        OSError: nothing of ours in the folder, weights missing, no right to write there, or no connection.
        ValueError: an invalid id.
    """
    folder = Path(folder).resolve()
    kind = kind_of(folder)
    files, left_out = _files_to_push(folder, kind, variant)
    api = HfApi(token=token)
    with clear_errors(repo_id):
        place = _repository(api, repo_id, kind, private, None if create_pr else revision) | {"revision": revision}
        there = with_retries(partial(api.list_repo_files, **place))
        card = _card_to_push(folder, kind, place["repo_id"], IMAGE_PROCESSOR_NAME in there)
        new_card = card if replace_card or CARD_NAME not in there else _kept_card(api, place, kind, card)
        new_files = {name: folder / name for name in files} | {CARD_NAME: new_card.encode()}
        replaced = outdated_files(there, files)
        changes: list[Any] = [CommitOperationAdd(name, content) for name, content in new_files.items()]
        changes += [CommitOperationDelete(name) for name in replaced]
        message = message or f"Upload {kind.value}"
        commit = with_retries(
            lambda: api.create_commit(operations=changes, commit_message=message, create_pr=create_pr, **place)
        )
    _write_card(folder / CARD_NAME, card)
    return Pushed(
        kind=kind,
        repo_id=place["repo_id"],
        address=commit.pr_url or commit.commit_url,
        commit=commit.oid,
        files=tuple(sorted(new_files)),
        deleted=tuple(replaced),
        left_out=tuple(left_out),
        card_kept=new_card != card,
    )


def push_saved(instance: Any, repo_id: str, saving: dict[str, Any], **options: Any) -> str:
    """
    Save a model or a pipeline into a temporary folder, with `saving` as the arguments of `save_pretrained`, and upload
    the folder with [`push_folder`]. Returns the address of the commit or of the pull request.
    """
    with TemporaryDirectory() as folder:
        saved = Path(folder, repo_id.rpartition("/")[2])
        instance.save_pretrained(saved, **saving)
        forget_origins(saved)
        return push_folder(saved, repo_id, **options).address


def _repository(api: HfApi, repo_id: str, kind: Kind, private: bool | None, branch: str | None) -> dict[str, Any]:
    """
    Make the repository and the branch if they are missing. Returns id (with the user) and type, as arguments of the
    client's methods.

    Raises:
        ValueError: a private repository is wanted, and there is a public one.
    """
    make = partial(api.create_repo, repo_id, repo_type=kind.repo_type, private=private, exist_ok=True)
    place: dict[str, Any] = {"repo_id": with_retries(make).repo_id, "repo_type": kind.repo_type}
    if private and not with_retries(partial(api.repo_info, **place)).private:
        raise ValueError(
            f"{place['repo_id']!r} exists and is public, and nothing was uploaded. Make it private in its settings on "
            "the Hub, or push without asking for a private one."
        )
    if branch and not branch.startswith("refs/"):
        with_retries(partial(api.create_branch, branch=branch, exist_ok=True, **place))
    return place


def _files_to_push(folder: Path, kind: Kind, variant: str | None) -> tuple[list[str], list[str]]:
    """
    The files to upload besides the card, and those of `Pushed.left_out`.

    Raises:
        OSError: weights are missing, or a necessary file is a link out of the folder.
    """
    names: list[str] = []
    left_out: list[str] = []
    card = folder / CARD_NAME
    shown = card.read_text(encoding="utf-8") if card.is_file() else ""
    for path in sorted(folder.rglob("*")):  # which does not follow links to folders
        name = path.relative_to(folder).as_posix()
        if is_hidden(name) or name.endswith(_NEVER_UPLOADED) or path.is_dir() and not path.is_symlink():
            continue
        is_shown = f"({name})" in shown or f'"{name}"' in shown  # as Markdown and HTML name a file
        wanted, inside = _belongs(name, kind) or is_shown, _stays_inside(path, folder)
        if wanted and not inside and (is_weights_file(name) or path.name in _NEEDED_NAMES):
            raise OSError(
                f"{path} is a link to a file outside of the folder, and such links are not uploaded. Replace it by a "
                "copy of the file."
            )
        (names if wanted and inside and path.is_file() else left_out).append(name)
    if CARD_NAME in names:
        names.remove(CARD_NAME)
    if kind is Kind.DATA_SET:
        return names, left_out
    check_weights(folder, describe(folder), variant)
    return (names if variant is None else needed_files(names, variant)), left_out


def _belongs(name: str, kind: Kind) -> bool:
    """Whether a file is of a kind that this package saves, or that repositories usually have."""
    path = PurePosixPath(name)
    folders = {Kind.DATA_SET: ("data",), Kind.PIPELINE: PIPELINE_FOLDERS}.get(kind, ())
    if len(path.parts) > 1 and (len(path.parts) > 2 or path.parts[0] not in folders):
        return False
    return is_published(name)


def _stays_inside(path: Path, folder: Path) -> bool:
    """Whether a file is in the folder; for a folder of the Hub's cache, whether it is a file of that repository."""
    real = path.resolve()
    in_cache = folder.parent.name == "snapshots" and real.is_relative_to(folder.parent.parent / "blobs")
    return real.is_relative_to(folder) or in_cache


def _card_to_push(folder: Path, kind: Kind, repo_id: str, has_image_processor: bool) -> str:
    """The folder's card, or a new one if there is none; a generated card gets the id of the repository."""
    path = folder / CARD_NAME
    if not path.is_file() and kind is not Kind.DATA_SET:
        return model_card(folder, CardContent(repo_id=repo_id), has_image_processor=has_image_processor)
    return readdressed(path.read_text(encoding="utf-8"), repo_id)


def _kept_card(api: HfApi, place: dict[str, Any], kind: Kind, card: str) -> str:
    """The new card of a repository that has one: a card that a person edited there stays."""
    old = Path(api.hf_hub_download(filename=CARD_NAME, **place)).read_text(encoding="utf-8")
    if old == card or is_generated(old):
        return card
    return with_new_head(old, card) if kind is Kind.DATA_SET else old


def _write_card(path: Path, card: str) -> None:
    """Write the card into the folder too, unless it is there or the folder is one of the Hub's cache."""
    if not path.is_symlink() and (not path.is_file() or path.read_text(encoding="utf-8") != card):
        write_atomically(path, card.encode())
