"""What a Hub stores: repositories with commits, branches, tags and pull requests, in memory."""

import base64
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The Hub keeps a file in its large-file storage by suffix or by size.
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".tar", ".png", ".jpg")
LFS_SIZE = 10_000_000


class HubError(Exception):
    """A refusal: an HTTP status, the Hub's code for it, and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class File:
    """One file of a commit. Large ones are known by the SHA-256 of their content, small ones by git's name for it."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id

    def describe(self, path: str) -> dict[str, Any]:
        """As the Hub's tree lists it."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    """A state of all files, and the commit before it."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, File]


@dataclass
class Repository:
    """
    One repository.

    Args:
        name: "user/name".
        kind: "models" or "datasets".
        private: whether only its owner sees it.
        mirror: a folder that gets a copy of each commit to main.
    """

    name: str
    kind: str = "models"
    private: bool = False
    mirror: Path | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.refs["refs/heads/main"] = self._store(None, "initial commit", {}).oid

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or commit hash names."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if revision in self.commits:
            return self.commits[revision]
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents of all files, for tests to compare."""
        return {path: file.content for path, file in self.at(revision).files.items()}

    def add_folder(self, folder: Path, revision: str = "main") -> str:
        """Commit the files of a folder, without any HTTP."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return self.add_files({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, revision)

    def add_files(self, contents: dict[str, bytes], revision: str = "main") -> str:
        """Commit files, without any HTTP. Returns the commit's hash."""
        files = {path: File(content, is_large(path, len(content))) for path, content in contents.items()}
        with self.lock:
            head = self.at(revision)
            return self._advance(self._branch(revision), head, "add files", head.files | files)

    def commit(self, revision: str, lines: Iterable[dict[str, Any]], pull_request: bool = False) -> tuple[str, int]:
        """
        What a POST to `commit` asks for: all of its operations or none.

        Args:
            revision: the branch.
            lines: the header, then one operation a line.
            pull_request: whether to open one instead of moving the branch.

        Returns:
            the commit's hash and the number of the pull request (0 without one).
        """
        header, *operations = lines
        with self.lock:
            head = self.at(revision)
            expected = header["value"].get("parentCommit")
            if expected is not None and expected != head.oid:
                raise HubError(412, "", f"A commit has happened since. Parent: {head.oid}, expected: {expected}.")
            files = dict(head.files)
            for operation in operations:
                self._apply(operation["key"], operation["value"], files)
            number = 1 + sum(name.startswith("refs/pr/") for name in self.refs) if pull_request else 0
            ref = f"refs/pr/{number}" if pull_request else self._branch(revision)
            return self._advance(ref, head, header["value"]["summary"], files), number

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, File]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]), large=False)
        elif key == "lfsFile":
            if value["oid"] not in self.large_files:
                raise HubError(400, "", f"{path} was never uploaded to the large-file storage.")
            files[path] = File(self.large_files[value["oid"]], large=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, "EntryNotFound", f"There is no {path} to delete.")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(f"{path}/")]:
                del files[name]
        else:
            raise HubError(400, "", f"Unknown operation {key}.")

    def _branch(self, revision: str) -> str:
        return revision if revision.startswith("refs/") else f"refs/heads/{revision}"

    def _advance(self, ref: str, head: Commit, title: str, files: dict[str, File]) -> str:
        oid = self._store(head.oid, title, files).oid
        self.refs[ref] = oid
        if self.mirror is not None and ref == "refs/heads/main":
            for path, file in files.items():
                (self.mirror / path).parent.mkdir(parents=True, exist_ok=True)
                (self.mirror / path).write_bytes(file.content)
        return oid

    def _store(self, parent: str | None, title: str, files: dict[str, File]) -> Commit:
        listing = repr((parent, title, sorted((path, file.etag) for path, file in files.items())))
        commit = Commit(hashlib.sha1(listing.encode()).hexdigest(), parent, title, files)
        self.commits[commit.oid] = commit
        return commit


def is_large(path: str, size: int) -> bool:
    """Whether the Hub asks for a file to come through the large-file storage."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE
