"""What uploads and downloads share: errors in one sentence, kinds of repositories, names of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # of the HTTP library that huggingface_hub uses
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from .folders import Description
from .locations import check_location
from .retries import with_retries

REPO_TYPES = ("model", "dataset")
# What people load or read. Pickles run code when they are opened, so they are neither uploaded nor downloaded.
_PUBLISHED_SUFFIXES = (".json", ".safetensors", ".parquet", ".md", ".png", ".jpg", ".py", ".yaml", ".txt")
Token = str | bool | None
# Seconds for the first question to the Hub, where one without an answer means that there is no network.
_PATIENCE = 10


def repo_type_of(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """
    Whether a repository is of the type "model" or "dataset"; None if there is no network, or the user wants none used.

    Raises:
        HfHubHTTPError: no such repository or revision, or an answer that is an error.
    """
    for repo_type in REPO_TYPES:
        ask = partial(api.repo_info, repo_id, repo_type=repo_type, revision=revision)
        try:
            with_retries(ask)
            return repo_type
        except RepositoryNotFoundError:
            if repo_type == REPO_TYPES[-1]:
                raise
        except HfHubHTTPError:
            raise
        except (OfflineModeIsEnabled, TransportError):
            break
    return None


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """Errors of the Hub's client as one sentence about this repository."""
    try:
        yield
    except HFValidationError:
        raise ValueError(
            f"{repo_id!r} is no id of a Hub repository, and no folder here either. Write an id as user/name."
        ) from None
    except (HfHubHTTPError, TransportError, OfflineModeIsEnabled, LocalEntryNotFoundError, RuntimeError) as error:
        # A large file whose upload fails is a RuntimeError, whatever the reason.
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, (OSError, TransportError)):
            raise
        if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)) or _is_unreachable(error):
            raise OSError(no_connection(repo_id, error)) from error
        raise OSError(
            f"The Hub did not do this for {repo_id!r} ({reason_of(error)}). Check the name, the revision, your login "
            "(`hf auth login`) and the network, and call it again."
        ) from error


def reason_of(error: BaseException) -> str:
    """All that an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def no_connection(repo_id: str, error: BaseException) -> str:
    """What to say when the Hub was not, or could not be, asked for something that the cache does not have."""
    if constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set, so the Hub is not asked for {repo_id!r}, and what is in the cache is not enough. "
            "Unset it, or name a folder on this machine."
        )
    return (
        f"The Hub cannot be reached for {repo_id!r} ({reason_of(error)}), and what is in the cache is not enough. "
        "Check the network, or name a folder on this machine."
    )


def _is_unreachable(error: BaseException) -> bool:
    """Whether no connection came about, told by the names that HTTP libraries have for it."""
    return type(error).__name__ in ("ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError")


def check_on_hub(repo_id: str, repo_type: str = "model", revision: str | None = None, token: Token = None) -> None:
    """
    Ask once whether a repository can be had, before libraries ask for each of its files, with all their patience.

    Without a connection the cache decides, and this process asks no more: what libraries then look for is there.

    Raises:
        OSError: no such repository or revision, no access; or no connection, and nothing of it in the cache.
        ValueError: an id that is none.
    """
    api = HfApi(token=token)
    with clear_errors(repo_id):
        try:
            with_retries(lambda: api.repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=_PATIENCE))
        except HfHubHTTPError:
            raise
        except (OfflineModeIsEnabled, TransportError):
            stored = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type=repo_type))
            if not any(stored.glob("snapshots/*")):
                raise
            constants.HF_HUB_OFFLINE = True
            os.environ["HF_HUB_OFFLINE"] = "1"  # for `datasets`, and for processes that are started later


def small_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """
    A file of a model in a folder, or of a model repository, from which it is downloaded if the cache lacks it; None if
    there is no such file.

    Raises:
        FileNotFoundError: neither a path nor the id of a repository.
        OSError, ValueError: as [`check_on_hub`].
    """
    if check_location(model):
        path = Path(model, name)
        return path if path.is_file() else None
    with clear_errors(model):
        try:
            return Path(with_retries(lambda: hf_hub_download(model, name, revision=revision)))
        except EntryNotFoundError:  # of the Hub, or of a cache that nobody asks further than
            return None


def check_push(repo_id: str, repo_type: str = "model", token: Token = None) -> None:
    """
    Look whether a repository could be pushed to, before the work whose result is to go there.

    Args:
        repo_id: "user/name", or "name" for one's own.
        repo_type: "model" or "dataset".

    Raises:
        OSError: nobody is logged in, the user may not write there, or no connection.
        ValueError: an id that is none.
    """
    api = HfApi(token=token)
    with clear_errors(repo_id):
        validate_repo_id(repo_id)
        user = with_retries(lambda: api.whoami())
        owner, name = repo_id.rpartition("/")[0] or user["name"], repo_id.rpartition("/")[2]
        owners = {user["name"], *(group["name"] for group in user.get("orgs", ()))}
        token_role = user.get("auth", {}).get("accessToken", {}).get("role")
        try:
            with_retries(lambda: api.auth_check(f"{owner}/{name}", repo_type=repo_type, write=True))
        except HfHubHTTPError as error:
            if error.response.status_code == 404 and owner in owners and token_role != "read":
                return  # it is not there yet, and the push will make it
            raise OSError(
                f"You are logged in as {user['name']!r}, who may not write to {repo_id!r}. Name a repository of your "
                "own or of your organisation, or log in as somebody else or with a token that may write "
                "(`hf auth login`)."
            ) from error


def check_weights(folder: Path, description: Description, variant: str | None = None) -> None:
    """Raises OSError if a part has no weights, or if no part has weights of the variant that is asked for."""
    for part, weights in description.weights.items():
        if not weights.num_parameters:
            raise OSError(f"The {part} in {folder} has no safetensors weights. Save or download it again.")
    variants = {name for weights in description.weights.values() for name in weights.variants}
    if variant is not None and variant not in variants:
        names = ", ".join(repr(name) for name in sorted(variants - {None}, key=str)) or "none"
        raise OSError(f"{folder} has no weights of the variant {variant!r}. Variants there: {names}.")


def is_published(name: str) -> bool:
    """Whether a file is of a kind that is uploaded and downloaded: what people load or read, and licences."""
    path = PurePosixPath(name)
    return path.suffix in _PUBLISHED_SUFFIXES or path.stem.upper() in ("LICENSE", "LICENCE", "NOTICE")


def is_hidden(name: str) -> bool:
    """Whether a path or a folder in it begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def exactly(names: Iterable[str]) -> list[str]:
    """Patterns that fit these names alone."""
    return [glob.escape(name) for name in names]


__all__ = [
    "Token",
    "check_on_hub",
    "check_push",
    "check_weights",
    "clear_errors",
    "exactly",
    "is_hidden",
    "is_published",
    "no_connection",
    "reason_of",
    "repo_type_of",
    "small_file",
]
