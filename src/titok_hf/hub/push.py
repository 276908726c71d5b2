"""A saved folder to the Hub, in one commit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi

from ..atomic_files import write_atomically
from .cards import CARD_NAME, CardContent, is_generated, readdressed, write_model_card
from .connection import Token, check_weights, clear_errors, exactly, is_hidden
from .folders import Kind, describe, forget_origins, is_weights_file, kind_of, variant_of
from .pull import needed_files

# They run code when they are opened: nobody shall find one where a checkpoint of ours is.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Pushed:
    """
    Args:
        kind: what was uploaded.
        repo_id: the repository, with its user.
        address: of the commit, or of the pull request if one was opened.
        commit: its hash.
        files: what the commit contains, as paths in the repository.
        deleted: weights that it removed, because the new ones replace them under other names.
        card_kept: whether a card that a person edited on the Hub was left as it is.
    """

    kind: Kind
    repo_id: str
    address: str
    commit: str
    files: tuple[str, ...]
    deleted: tuple[str, ...]
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
    token: Token = None,
) -> Pushed:
    """
    Upload a pipeline, tokenizer, generator, MaskGIT-VQGAN or data set in one commit: after a failure the repository is
    as it was. A card is written first if there is none; a generated one is told its new address.

    Args:
        folder: what `save_pretrained`, `titok-hf prepare` or `titok-hf pretokenize` wrote. Hidden files stay here.
        repo_id: "user/name"; made if missing.
        private: whether a new repository is private.
        revision: branch to commit to, made from main if missing.
        create_pr: whether to open a pull request instead of committing.
        message: of the commit.
        variant: upload only the weights of this variant; by default all that are there.
        token: of the Hub user; by default the one that is logged in.

    Raises:
        OSError: nothing of ours in the folder, weights missing, no right to write there, or no connection.
        ValueError: an id that is none.
    """
    folder = Path(folder).resolve()
    kind = kind_of(folder)
    files = _files_to_push(folder, kind, variant)
    if kind is not Kind.DATA_SET:
        _prepare_card(folder, repo_id)
        files = sorted({*files, CARD_NAME})
    api = HfApi(token=token)
    with clear_errors(repo_id):
        repo_id = api.create_repo(repo_id, repo_type=kind.repo_type, private=private, exist_ok=True).repo_id
        if revision and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=kind.repo_type, exist_ok=True)
        place: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind.repo_type, "revision": revision}
        there = api.list_repo_files(**place)
        card_kept = False
        if CARD_NAME in there and is_generated((folder / CARD_NAME).read_text(encoding="utf-8")):
            old_card = Path(api.hf_hub_download(filename=CARD_NAME, **place)).read_text(encoding="utf-8")
            card_kept = not is_generated(old_card)
        if card_kept:
            files.remove(CARD_NAME)
        replaced = _replaced_weights(there, files)
        commit = api.upload_folder(
            folder_path=folder,
            allow_patterns=exactly(files),
            delete_patterns=exactly(replaced) or None,
            commit_message=message or f"Upload {kind.value}",
            create_pr=create_pr,
            **place,
        )
    address = commit.pr_url or commit.commit_url
    return Pushed(kind, repo_id, address, commit.oid, tuple(files), tuple(replaced), card_kept)


class PushedWithCard:
    """Put in front of a model's library base class: `push_to_hub` then makes one commit, and writes our card."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        *,
        private: bool | None = None,
        token: Token = None,
        revision: str | None = None,
        create_pr: bool = False,
        **options: Any,
    ) -> str:
        """
        Save the model to the Hub, in one commit: after a failure the repository is as it was.

        Args:
            repo_id, commit_message, private, token, revision, create_pr: as for [`push_folder`].
            options: `max_shard_size`, and whatever else `save_pretrained` takes; with `subfolder`, which puts a part
                into the repository of something larger, or `tags`, the library's own way is taken.

        Returns:
            the address of the commit or of the pull request.

        Raises:
            OSError: no right to write there, or no connection.
            ValueError: an id that is none.
        """
        if options.keys() & {"subfolder", "tags", "commit_description"}:
            chosen = {"private": private, "token": token, "create_pr": create_pr, **options}
            if revision is not None:
                chosen["revision"] = revision
            return super().push_to_hub(repo_id, commit_message=commit_message, **chosen)  # type: ignore[misc]
        with TemporaryDirectory() as folder:
            saved = Path(folder, repo_id.rpartition("/")[2])
            self.save_pretrained(saved, **options)  # type: ignore[attr-defined]
            forget_origins(saved)
            chosen = {"private": private, "token": token, "revision": revision, "create_pr": create_pr}
            return push_folder(saved, repo_id, message=commit_message, **chosen).address


def _files_to_push(folder: Path, kind: Kind, variant: str | None) -> list[str]:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for name in names if not is_hidden(name) and not name.endswith(_PICKLES)]
    if kind is Kind.DATA_SET:
        return names
    check_weights(folder, describe(folder), variant)
    return names if variant is None else needed_files(names, variant)


def _prepare_card(folder: Path, repo_id: str) -> None:
    """A card if there is none; a generated one gets its new address."""
    path = folder / CARD_NAME
    if not path.is_file():
        write_model_card(folder, CardContent(repo_id=repo_id))
        return
    card = path.read_text(encoding="utf-8")
    moved = readdressed(card, repo_id)
    if moved != card:
        write_atomically(path, moved.encode())


def _replaced_weights(there: Sequence[str], new: Sequence[str]) -> list[str]:
    """Weights in a repository that nobody shall load beside new ones of the same part and variant."""

    def identity(name: str) -> tuple[PurePosixPath, str | None]:
        return PurePosixPath(name).parent, variant_of(name)

    written = {identity(name) for name in new if is_weights_file(name)}
    return [name for name in there if is_weights_file(name) and name not in new and identity(name) in written]


__all__ = ["Pushed", "PushedWithCard", "push_folder"]
