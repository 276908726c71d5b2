"""A repository of the Hub to this machine: only the files that are needed, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from .cards import CARD_NAME
from .connection import REPO_TYPES, Token, check_weights, clear_errors, exactly, is_hidden, is_published, repo_type_of
from .folders import Description, Kind, Weights, describe, kind_of
from .layout import checkpoint_atomically, is_weights_file, variant_of
from .locations import check_is_hub_id
from .retries import with_retries

# What tells a checkpoint apart and describes it, without its weights.
_SMALL_FILES = ["*.json", CARD_NAME]


@dataclass(frozen=True)
class Pulled:
    """
    Args:
        kind: what was downloaded.
        folder: where it lies now.
        files: paths in it.
    """

    kind: Kind
    folder: Path
    files: tuple[str, ...]


def pull(
    repo_id: str,
    folder: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: Token = None,
) -> Pulled:
    """
    Download a checkpoint or a data set, through the cache: what is there already is not downloaded again, and an
    interrupted download goes on where it stopped.

    Args:
        repo_id: "user/name".
        folder: where to put a copy, which appears when everything is there; by default it stays in the cache. Files of
            the same name, and weights of the same variant, are replaced; all others in it stay.
        revision: branch, tag or commit; by default main.
        variant: take the weights of this variant, where a part has them; by default the plain ones.
        token: of the Hub user; by default the one that is logged in.

    Raises:
        OSError: no such repository, nothing of ours in it, no access, no connection, or a place that refuses to be
            written.
        ValueError: an id that is none.
    """
    cached, repo_type, online = _small_files(repo_id, revision, token)
    kind = _kind_of(cached, repo_type)
    place: dict[str, Any] = {"repo_type": repo_type, "revision": revision, "token": token}
    with clear_errors(repo_id):
        if online:
            api = HfApi(token=token)
            there = with_retries(lambda: api.list_repo_files(repo_id, repo_type=repo_type, revision=revision))
        else:
            cached = Path(snapshot_download(repo_id, local_files_only=True, **place))
            there = [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
        files = needed_files(there, variant)
        if variant is not None and not any(is_weights_file(name) and variant_of(name) == variant for name in files):
            names = sorted({variant_of(name) or "" for name in there if is_weights_file(name)} - {""})
            raise ValueError(
                f"{repo_id!r} has no weights of the variant {variant!r}. Variants there: {', '.join(names) or 'none'}."
            )
        if online:
            patterns = exactly(files)
            cached = Path(with_retries(lambda: snapshot_download(repo_id, allow_patterns=patterns, **place)))
    if kind is Kind.DATA_SET:
        kind_of(cached)
    else:
        check_weights(cached, describe(cached))
    if folder is None:
        return Pulled(kind, cached, tuple(files))
    with checkpoint_atomically(folder) as unfinished:
        for name in files:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cached / name, unfinished / name)
    return Pulled(kind, Path(folder), tuple(files))


def describe_remote(repo_id: str, revision: str | None = None, token: Token = None) -> tuple[Description, str | None]:
    """
    What a repository holds and the text of its card, from its small files and the headers of its weights alone.

    Raises:
        OSError, ValueError: as `pull`.
    """
    folder, repo_type, online = _small_files(repo_id, revision, token)
    if _kind_of(folder, repo_type) is Kind.DATA_SET:
        description = Description(Kind.DATA_SET)
    else:
        description = describe(folder)
    if online and repo_type == "model":
        in_folders = description.kind is Kind.PIPELINE
        with clear_errors(repo_id):
            weights = {
                part: _remote_weights(HfApi(token=token), repo_id, part if in_folders else None, revision)
                for part in description.weights
            }
        description = replace(description, weights=weights)
    card = folder / CARD_NAME
    return description, card.read_text(encoding="utf-8") if card.is_file() else None


def needed_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files that somebody who wants one variant needs; a folder without it gives its plain weights."""
    wanted = [name for name in names if is_published(name) and not is_hidden(name)]
    with_variant = {
        PurePosixPath(name).parent for name in wanted if is_weights_file(name) and variant_of(name) == variant
    }
    return sorted(
        name
        for name in wanted
        if not is_weights_file(name)
        or variant_of(name) == (variant if PurePosixPath(name).parent in with_variant else None)
    )


def _small_files(repo_id: str, revision: str | None, token: Token) -> tuple[Path, str, bool]:
    """The folder in the cache with configurations and card, the type of repository, and whether the Hub answered."""
    place: dict[str, Any] = {"revision": revision, "token": token, "allow_patterns": _SMALL_FILES}
    check_is_hub_id(repo_id)
    with clear_errors(repo_id):
        repo_type = repo_type_of(HfApi(token=token), repo_id, revision)
        if repo_type is not None:
            small = with_retries(lambda: snapshot_download(repo_id, repo_type=repo_type, **place))
            return Path(small), repo_type, True
        for repo_type in REPO_TYPES[:-1]:
            try:
                return _cached(repo_id, repo_type, place), repo_type, False
            except LocalEntryNotFoundError:
                continue
        return _cached(repo_id, REPO_TYPES[-1], place), REPO_TYPES[-1], False


def _kind_of(folder: Path, repo_type: str) -> Kind:
    """What a repository holds whose small files are in a folder: those of a data set say nothing."""
    return Kind.DATA_SET if repo_type == Kind.DATA_SET.repo_type else kind_of(folder)


def _cached(repo_id: str, repo_type: str, place: dict[str, Any]) -> Path:
    return Path(snapshot_download(repo_id, repo_type=repo_type, local_files_only=True, **place))


def _remote_weights(api: HfApi, repo_id: str, folder: str | None, revision: str | None) -> Weights:
    """Parameters and bytes of a part on the Hub, from the headers of its files."""
    try:
        entries = list(api.list_repo_tree(repo_id, path_in_repo=folder, revision=revision))
    except EntryNotFoundError:
        return Weights(0, 0, ())
    files: dict[str | None, list] = {}
    for entry in entries:
        if entry.path.endswith(".safetensors"):
            files.setdefault(variant_of(entry.path), []).append(entry)
    variants = tuple(sorted(files, key=lambda name: (name is not None, name)))
    shown = files[variants[0]] if variants else []
    headers = [api.parse_safetensors_file_metadata(repo_id, entry.path, revision=revision) for entry in shown]
    return Weights(
        num_parameters=sum(sum(header.parameter_count.values()) for header in headers),
        num_bytes=sum(entry.size for entry in shown),
        variants=variants,
    )


__all__ = ["Pulled", "describe_remote", "needed_files", "pull"]
