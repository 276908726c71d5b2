"""Downloads of a repository of the Hub: only the files that are needed, and a folder that is complete or absent."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from .cards import CARD_NAME
from .connection import (
    REPO_TYPES,
    Token,
    check_weights,
    clear_errors,
    files_on_hub,
    is_hidden,
    is_published,
    with_retries,
)
from .folders import Description, Kind, describe, kind_of, weights_among
from .layout import checkpoint_atomically, is_weights_file, variant_of
from .locations import check_is_hub_id

# The files that describe a checkpoint.
_SMALL_FILES = ["*.json", CARD_NAME]


@dataclass(frozen=True)
class Pulled:
    """
    Args:
        kind: what was downloaded.
        folder: where it is now.
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
    Download a checkpoint or a data set through the cache: files in the cache are not downloaded again, and an
    interrupted download continues.

    Args:
        repo_id: "user/name".
        folder: where to put a copy, which appears when it is complete; by default the files stay in the cache. Files
            of the same name, and weights of the same variant, are replaced; other files in it stay.
        revision: branch, tag or commit; by default main.
        variant: download the weights of this variant, where a part has them; by default the plain ones.
        token: of the Hub user; by default the one that is logged in.

    Raises:
        OSError: no such repository, nothing of ours in it, no access, no connection, or a folder that cannot be
            written.
        ValueError: an invalid id, or no weights of this variant.
    """
    cached, repo_type, sizes = _small_files(repo_id, revision, token)
    # The small files of a data set do not tell its kind.
    kind = Kind.DATA_SET if repo_type == Kind.DATA_SET.repo_type else kind_of(cached)
    there = sizes or [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
    files = needed_files(there, variant)
    if variant is not None and not any(is_weights_file(name) and variant_of(name) == variant for name in files):
        names = sorted({variant_of(name) or "" for name in there if is_weights_file(name)} - {""})
        raise ValueError(
            f"{repo_id!r} has no weights of the variant {variant!r}. Variants there: {', '.join(names) or 'none'}."
        )
    if sizes is not None:
        place: dict[str, Any] = {"repo_type": repo_type, "revision": revision, "token": token}
        patterns = [glob.escape(name) for name in files]
        with clear_errors(repo_id):
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
    The content of a repository and the text of its card, read from its small files and the headers of its weights.

    Raises:
        OSError, ValueError: as `pull`.
    """
    folder, repo_type, sizes = _small_files(repo_id, revision, token)
    description = Description(Kind.DATA_SET) if repo_type == Kind.DATA_SET.repo_type else describe(folder)
    if sizes is not None:
        api = HfApi(token=token)

        def num_parameters(name: str) -> int:
            header = api.parse_safetensors_file_metadata(repo_id, name, revision=revision)
            return sum(header.parameter_count.values())

        weights = {}
        for part in description.weights:
            place = PurePosixPath(part if description.kind is Kind.PIPELINE else "")
            files = {name: size for name, size in sizes.items() if PurePosixPath(name).parent == place}
            with clear_errors(repo_id):
                weights[part] = weights_among(files, num_parameters)
        description = replace(description, weights=weights)
    card = folder / CARD_NAME
    return description, card.read_text(encoding="utf-8") if card.is_file() else None


def needed_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files needed to load one variant; of a folder without that variant, the plain weights."""
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


def _small_files(repo_id: str, revision: str | None, token: Token) -> tuple[Path, str, dict[str, int] | None]:
    """
    The folder in the cache with configurations and card, the type of the repository, and the sizes of all its files;
    None in place of these without a connection.
    """
    check_is_hub_id(repo_id)
    place: dict[str, Any] = {"revision": revision, "token": token, "allow_patterns": _SMALL_FILES}

    def cached(repo_type: str) -> Path:
        return Path(snapshot_download(repo_id, repo_type=repo_type, local_files_only=True, **place))

    with clear_errors(repo_id):
        found = files_on_hub(HfApi(token=token), repo_id, revision)
        if found is not None:
            repo_type, sizes = found
            small = with_retries(lambda: snapshot_download(repo_id, repo_type=repo_type, **place))
            return Path(small), repo_type, sizes
        try:
            return cached(REPO_TYPES[0]), REPO_TYPES[0], None
        except LocalEntryNotFoundError:
            return cached(REPO_TYPES[1]), REPO_TYPES[1], None
