"""What uploads and downloads share: errors in one sentence, kinds of repositories, names of files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # of the HTTP library that huggingface_hub uses
from huggingface_hub.utils import validate_repo_id

from .folders import Description

REPO_TYPES = ("model", "dataset")
# What people load or read. Pickles run code when they are opened, so they are neither uploaded nor downloaded.
_PUBLISHED_SUFFIXES = (".json", ".safetensors", ".parquet", ".md", ".png", ".jpg", ".py", ".yaml", ".txt")
Token = str | bool | None


def repo_type_of(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """
    Whether a repository is of the type "model" or "dataset"; None if there is no network, or the user wants none used.

    Raises:
        HfHubHTTPError: no such repository or revision, or an answer that is an error.
    """
    for repo_type in REPO_TYPES:
        try:
            api.repo_info(repo_id, repo_type=repo_type, revision=revision)
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"The Hub did not do this for {repo_id!r} ({reason}). Check the name, the revision, your login (`hf auth "
            "login`) and the network, and call it again."
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


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a Hub id, "user/name", while no file or folder here has that name."""
    if text.count("/") != 1 or Path(text).expanduser().exists():
        return False
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


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
    "check_weights",
    "clear_errors",
    "exactly",
    "is_hidden",
    "is_hub_id",
    "is_published",
    "repo_type_of",
]
