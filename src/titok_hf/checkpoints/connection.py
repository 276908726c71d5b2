"""What uploads and downloads share: retries, errors in one sentence, checks before the work, names of files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

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

REPO_TYPES = ("model", "dataset")
# Pickles run code when they are opened, so they are neither uploaded nor downloaded.
_PUBLISHED_SUFFIXES = (".json", ".safetensors", ".parquet", ".md", ".png", ".jpg", ".py", ".yaml", ".txt")
Token = str | bool | None
Answer = TypeVar("Answer")
# Seconds to wait for the first answer of the Hub; without one there is no network.
_PATIENCE = 10
# HTTP statuses of a Hub that is busy or fails for a while, and the seconds before each new attempt.
_TEMPORARY = (408, 429, 500, 502, 503, 504)
_WAITS = (1, 2, 4, 8)


def with_retries(call: Callable[[], Answer]) -> Answer:
    """
    The result of a call of the Hub, repeated up to four times, within 15 seconds, while the Hub is busy or fails: its
    client does this for some calls only. Other errors are raised at once.

    Args:
        call: one that may be made several times.
    """
    for seconds in _WAITS:
        try:
            return call()
        except Exception as error:
            if _status_of(error) not in _TEMPORARY:
                raise
        time.sleep(seconds)
    return call()


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, which libraries may have wrapped in their own."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__ or error.__context__
    return None


def files_on_hub(api: HfApi, repo_id: str, revision: str | None) -> tuple[str, dict[str, int]] | None:
    """
    The type of a repository, "model" or "dataset", and the size of each of its files by path; None if there is no
    network, or HF_HUB_OFFLINE is set.

    Raises:
        HfHubHTTPError: no such repository or revision, or another error of the Hub.
    """
    for repo_type in REPO_TYPES:
        ask = partial(api.repo_info, repo_id, repo_type=repo_type, revision=revision, files_metadata=True)
        try:
            info: Any = with_retries(ask)
            return repo_type, {file.rfilename: file.size or 0 for file in info.siblings}
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
    """A block in which each error of the Hub's client becomes one sentence about this repository."""
    try:
        yield
    except HFValidationError:
        raise ValueError(
            f"{repo_id!r} is no id of a Hub repository, and no folder here either. Write an id as user/name."
        ) from None
    except (HfHubHTTPError, TransportError, OfflineModeIsEnabled, LocalEntryNotFoundError, RuntimeError) as error:
        # The client raises a RuntimeError when the upload of a large file fails, for whatever reason.
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, (OSError, TransportError)):
            raise
        unreachable = ("ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError")  # in any HTTP library
        if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)) or type(error).__name__ in unreachable:
            offline = f"HF_HUB_OFFLINE is set, so the Hub is not asked for {repo_id!r}. Unset it"
            failed = f"The Hub cannot be reached for {repo_id!r} ({reason_of(error)}). Check the network"
            raise OSError(
                f"{offline if constants.HF_HUB_OFFLINE else failed}, or name a folder on this machine: the cache does "
                "not have all of it."
            ) from error
        raise OSError(
            f"The Hub request for {repo_id!r} failed ({reason_of(error)}). Check the name, the revision, your login "
            "(`hf auth login`) and the network, and try again."
        ) from error


def reason_of(error: BaseException) -> str:
    """The whole message of an error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def check_on_hub(repo_id: str, repo_type: str = "model", revision: str | None = None, token: Token = None) -> None:
    """
    Check with one request that a repository can be read, before libraries ask for each of its files with long retries.
    Without a connection, this process uses the cache only from now on.

    Raises:
        OSError: no such repository or revision, no access; or no connection, and nothing of it in the cache.
        ValueError: an invalid id.
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
    A file of a model in a folder or in a model repository (then it is downloaded); None if there is no such file.

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
        except EntryNotFoundError:  # on the Hub, or offline in the cache
            return None


def check_push(repo_id: str, repo_type: str = "model", token: Token = None) -> None:
    """
    Check that a repository can be pushed to, before the work whose result is to go there.

    Args:
        repo_id: "user/name", or "name" for one's own.
        repo_type: "model" or "dataset".

    Raises:
        OSError: nobody is logged in, the user may not write there, or no connection.
        ValueError: an invalid id.
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
                return  # it does not exist yet, and the push will create it
            raise OSError(
                f"You are logged in as {user['name']!r}, who may not write to {repo_id!r}. Name a repository of your "
                "own or of your organisation, or log in as somebody else or with a token that may write "
                "(`hf auth login`)."
            ) from error


def check_weights(folder: Path, description: Description, variant: str | None = None) -> None:
    """Raise OSError if a part has no weights, or if no part has weights of the variant that is asked for."""
    for part, weights in description.weights.items():
        if not weights.num_parameters:
            raise OSError(f"The {part} in {folder} has no safetensors weights. Save or download it again.")
    variants = {name for weights in description.weights.values() for name in weights.variants}
    if variant is not None and variant not in variants:
        names = ", ".join(repr(name) for name in sorted(variants - {None}, key=str)) or "none"
        raise OSError(f"{folder} has no weights of the variant {variant!r}. Variants there: {names}.")


def is_published(name: str) -> bool:
    """Whether a file is of a kind that is uploaded and downloaded: known formats, and licences."""
    path = PurePosixPath(name)
    return path.suffix in _PUBLISHED_SUFFIXES or path.stem.upper() in ("LICENSE", "LICENCE", "NOTICE")


def is_hidden(name: str) -> bool:
    """Whether the name of a file, or of a folder above it, begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
