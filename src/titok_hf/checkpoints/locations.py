"""Decides whether a name that a user gives is a path on this machine or the id of a Hub repository."""

import difflib
import os
import re
from pathlib import Path

# "user/name", as the Hub allows it; some early data sets have no user.
_HUB_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]{0,95}", re.ASCII)
# A name with such a suffix is taken for a file, not for a repository.
_FILE_SUFFIXES = (
    *(".bin", ".ckpt", ".msgpack", ".pt", ".pth", ".safetensors"),
    *(".jpeg", ".jpg", ".png", ".webp", ".gz", ".parquet", ".tar", ".tgz", ".zip"),
    *(".json", ".jsonl", ".txt", ".yaml", ".yml"),
)


def may_be_hub_id(name: str | os.PathLike, needs_user: bool = True) -> bool:
    """
    Whether a name can be the id of a Hub repository.

    Args:
        name: from the user.
        needs_user: whether a name without "user/" is refused.
    """
    text = os.fspath(name)
    return (
        isinstance(text, str)
        and _HUB_ID.fullmatch(text) is not None
        and ("/" in text or not needs_user)
        and Path(text).suffix.lower() not in _FILE_SUFFIXES
    )


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a Hub id, "user/name", while no file or folder here has that name."""
    return may_be_hub_id(text) and not Path(text).expanduser().exists()


def check_location(name: str | os.PathLike, what: str = "model", needs_user: bool = True) -> bool:
    """
    Args:
        name: from the user.
        what: what it should be, for the message.
        needs_user: as for [`may_be_hub_id`].

    Returns:
        True for a path that exists, False for the id of a Hub repository.

    Raises:
        FileNotFoundError: the name is neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        return True
    if may_be_hub_id(name, needs_user):
        return False
    raise FileNotFoundError(_not_there(name, what))


def check_is_hub_id(name: str, needs_user: bool = True) -> None:
    """Raise ValueError if a name cannot be the id of a repository, before a request is made."""
    if not may_be_hub_id(name, needs_user):
        raise ValueError(f"{name!r} is no id of a Hub repository. Write an id as user/name.")


def _not_there(name: str | os.PathLike, what: str) -> str:
    """A message with the last folder of the path that exists, and the most similar name in it."""
    path = Path(name).expanduser()
    above = next(parent for parent in path.absolute().parents if parent.exists())
    known = sorted(entry.name for entry in above.iterdir()) if os.access(above, os.R_OK) and above.is_dir() else []
    wanted = path.absolute().relative_to(above).parts[0]
    near = difflib.get_close_matches(wanted, known, n=1)
    advice = f"Did you mean {above / near[0]}?" if near else "Check the path, or write a Hub id as user/name."
    return f"The {what} {str(name)!r} does not exist: {str(above)!r} holds no {wanted!r}. {advice}"


def check_apart(output: str | os.PathLike, *inputs: str | os.PathLike | None) -> None:
    """
    Args:
        output: the file or folder to write.
        inputs: files and folders to read, of which some may not exist.

    Raises:
        FileExistsError: an input is the output or lies in it, so it would be overwritten.
    """
    written = Path(output).resolve()
    for one in inputs:
        if one is None or not Path(one).exists():
            continue
        read = Path(one).resolve()
        if read == written or written in read.parents or (written.exists() and written.samefile(read)):
            where = "is read, and would be overwritten" if read == written else f"lies in {output} and is read"
            raise FileExistsError(f"{one} {where}. Choose another place with --output.")
