"""A Hub on this machine: real HTTP for the real huggingface_hub client, with faults that a test can switch on.

The client reads HF_ENDPOINT when it is imported, so it runs in a process of its own (`LocalHub.environment`).
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repository import HubError, Repository, is_large

OWNER_TOKEN, STRANGER_TOKEN = "hf_owner", "hf_stranger"
USER_OF_TOKEN = {OWNER_TOKEN: "user", STRANGER_TOKEN: "stranger"}


@dataclass
class Fault:
    """
    Something that goes wrong with the next requests that fit.

    Args:
        path: regular expression that is searched in "METHOD /path".
        status: the status to answer with; 0 cuts the connection half-way through the upload or the download.
        times: how many requests it hits; None for all.
        seconds: how long to wait before the answer, which comes as usual if `status` is None.
    """

    path: str
    status: int | None = None
    times: int | None = None
    seconds: float = 0


@dataclass
class LocalHub:
    """
    The server, its repositories, and what was asked of it.

    Attributes:
        url: the address, for HF_ENDPOINT.
        requests: "METHOD /path" of every request so far.
        fetched: path of every file whose content was sent.
        faults: what is to go wrong; tests append to it and clear it.
        page_size: entries in one answer of a tree; more come as further pages.
    """

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    page_size: int = 1000
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def repository(self, name: str, kind: str = "models", **fields: Any) -> Repository:
        """A repository; made if there is none."""
        with self.lock:
            return self.repositories.setdefault((kind, name), Repository(name, kind, **fields))

    def environment(self, cache: Path, token: str | None = OWNER_TOKEN, offline: bool = False) -> dict[str, str]:
        """Variables for a process whose client shall talk to this Hub, with its own cache."""
        variables = {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HOME": str(cache), "HF_DATASETS_OFFLINE": str(int(offline)), "HF_HUB_ETAG_TIMEOUT": "60"}
        return variables | ({"HF_TOKEN": token} if token else {})

    def fault_for(self, request: str) -> Fault | None:
        """The first fault that fits, counted down."""
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.path, request):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A Hub that runs until the block ends."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hub_server(folder: Path, repository: str, kind: str = "models") -> Iterator[tuple[str, list[str]]]:
    """
    A Hub of one repository that holds the files of a folder, and copies into that folder what is committed.

    Gives the address to set as HF_ENDPOINT, and a growing list of the files that were fetched.
    """
    with local_hub() as hub:
        hub.repository(repository, kind).add_folder(folder)
        hub.repository(repository, kind).mirror = folder
        USER_OF_TOKEN["hf_test"] = repository.partition("/")[0]
        yield hub.url, hub.fetched


Answer = tuple[int, Any, dict[str, str]]


class HubHandler(BaseHTTPRequestHandler):
    """One request. Routes are regular expressions; a handler returns status, body (JSON or bytes) and headers."""

    hub: LocalHub
    fault: Fault | None = None

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        request = f"{self.command} {unquote(path)}"
        self.hub.requests.append(request)
        self.fault = self.hub.fault_for(request)
        try:
            self.raise_fault()
            handle, arguments = self.route(path)
            answer = handle(self, *arguments)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            if error.status == 429:
                headers["Retry-After"] = "1"
            answer = (error.status, {"error": error.message}, headers)
        except ConnectionAbortedError:
            return
        self.send(*answer)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def raise_fault(self) -> None:
        if self.fault is None:
            return
        time.sleep(self.fault.seconds)
        if self.fault.status:
            self.read_body()
            raise HubError(self.fault.status, "", f"the test asked for {self.fault.status}")
        if self.fault.status == 0 and self.command in ("POST", "PUT"):
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.cut()

    def cut(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True
        self.connection.close()
        raise ConnectionAbortedError

    def route(self, path: str) -> tuple[Callable[..., Answer], tuple[str | None, ...]]:
        for method, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split("|"):
                return handle, tuple(group and unquote(group) for group in match.groups())
        raise HubError(404, "", f"This Hub does not know {self.command} {path}.")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, status: int, body: Any, headers: dict[str, str]) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Date": formatdate()}
        for name, value in (given | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and self.fault.status == 0:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass

    # Who asks, and for what

    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in USER_OF_TOKEN:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return USER_OF_TOKEN.get(token)

    def find(self, kind: str | None, name: str, write: bool = False) -> Repository:
        """The repository, if it is there and the user may see it; the Hub does not tell one from the other."""
        user = self.user()
        repository = self.hub.repositories.get(((kind or "models").rstrip("/"), name))
        owned = user == name.partition("/")[0]
        if repository is None or (repository.private and not owned):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and not owned:
            raise HubError(403 if user else 401, "", f"You have no right to write to {name}.")
        return repository

    # Repositories

    def whoami(self) -> Answer:
        if self.user() is None:
            raise HubError(401, "", "Invalid username or password.")
        return 200, {"name": self.user(), "type": "user", "orgs": []}, {}

    def create(self) -> Answer:
        fields = json.loads(self.read_body())
        if self.user() is None:
            raise HubError(401, "", "Invalid username or password.")
        name = f"{fields.get('organization') or self.user()}/{fields['name']}"
        if name.partition("/")[0] != self.user():
            raise HubError(403, "", f"You have no right to create {name}.")
        kind = f"{fields.get('type') or 'model'}s"
        home = f"{self.hub.url}/{name if kind == 'models' else f'{kind}/{name}'}"
        if (kind, name) in self.hub.repositories:
            return 409, {"url": home, "error": "You already created this repo"}, {}
        private = fields.get("visibility") == "private" or bool(fields.get("private"))
        self.hub.repository(name, kind, private=private)
        return 200, {"id": name, "url": home}, {}

    def validate_yaml(self) -> Answer:
        self.read_body()
        return 200, {"errors": [], "warnings": []}, {}

    def describe(self, kind: str, name: str, revision: str | None = None) -> Answer:
        repository = self.find(kind, name)
        commit = repository.at(revision or "main")
        siblings = [{"rfilename": path, "size": len(file.content)} for path, file in sorted(commit.files.items())]
        answer = {"id": name, "sha": commit.oid, "private": repository.private, "siblings": siblings, "tags": []}
        return 200, answer, {"X-Repo-Commit": commit.oid}

    def check_rights(self, kind: str, name: str, write: str | None = None) -> Answer:
        self.find(kind, name, write=write is not None)
        return 200, {}, {}

    def list_tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> Answer:
        commit = self.find(kind, name).at(revision)
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, file in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                above = prefix + "/".join(parts[:depth])
                entries[above] = {"type": "directory", "path": above, "size": 0, "oid": "0" * 40}
            entries[path] = file.describe(path)
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
        if folder and not entries:
            raise HubError(404, "EntryNotFound", f"There is no {folder}.")
        start = int(self.query.get("cursor", ["0"])[0])
        page = list(entries.values())[start : start + self.hub.page_size]
        headers = {"X-Repo-Commit": commit.oid}
        if start + self.hub.page_size < len(entries):
            query = "&".join(f"{key}={values[0]}" for key, values in self.query.items() if key != "cursor")
            address = f"{self.hub.url}{urlsplit(self.path).path}?{query}&cursor={start + self.hub.page_size}"
            headers["Link"] = f'<{address}>; rel="next"'
        return 200, page, headers

    def list_paths(self, kind: str, name: str, revision: str) -> Answer:
        files = self.find(kind, name).at(revision).files
        body = self.read_body()
        form = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
        return 200, [files[path].describe(path) for path in form["paths"] if path in files], {}

    def list_refs(self, kind: str, name: str) -> Answer:
        sorts = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/", "converts": "refs/none/"}
        refs = self.find(kind, name).refs
        answer = {
            sort: [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
                for ref, oid in refs.items()
                if ref.startswith(prefix)
            ]
            for sort, prefix in sorts.items()
        }
        return 200, answer, {}

    def create_ref(self, kind: str, name: str, sort: str, target: str) -> Answer:
        """A branch `target` from `startingPoint`, or a tag at the revision `target` whose name is in the body."""
        repository = self.find(kind, name, write=True)
        fields = json.loads(self.read_body() or b"{}")
        if sort == "branch":
            ref, start = f"refs/heads/{target}", fields.get("startingPoint") or "main"
        else:
            ref, start = f"refs/tags/{fields['tag']}", target
        if ref in repository.refs:
            raise HubError(409, "", f"{ref} exists.")
        repository.refs[ref] = repository.at(start).oid
        return 200, {}, {}

    # Uploads

    def preupload(self, kind: str, name: str, revision: str) -> Answer:
        repository = self.find(kind, name, write=True)
        repository.at(revision)
        files = json.loads(self.read_body())["files"]
        modes = ["lfs" if is_large(file["path"], file["size"]) else "regular" for file in files]
        answer = [
            {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            for file, mode in zip(files, modes, strict=True)
        ]
        return 200, {"files": answer}, {}

    def lfs_batch(self, kind: str | None, name: str) -> Answer:
        repository = self.find(kind, name, write=True)
        objects = []
        for wanted in json.loads(self.read_body())["objects"]:
            storage = f"{self.hub.url}/lfs/{repository.kind}/{name}/{wanted['oid']}"
            actions = {"upload": {"href": storage}, "verify": {"href": f"{storage}/verify"}}
            known = wanted["oid"] in repository.large_files
            objects.append(wanted if known else {**wanted, "actions": actions})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def lfs_store(self, kind: str, name: str, oid: str) -> Answer:
        content = self.read_body()
        # As the Hub's storage: of a client that was killed in the middle nothing stays. A file that is known by its
        # hash is not uploaded again, so half of one would be taken for the whole.
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "", f"The large file {oid} has not arrived whole.")
        self.hub.repositories[kind, name].large_files[oid] = content
        return 200, {}, {}

    def lfs_verify(self, kind: str, name: str, oid: str) -> Answer:
        stored = self.hub.repositories[kind, name].large_files.get(oid)
        if stored is None or len(stored) != json.loads(self.read_body())["size"]:
            raise HubError(400, "", f"The large file {oid} has not arrived whole.")
        return 200, {}, {}

    def commit(self, kind: str, name: str, revision: str) -> Answer:
        repository = self.find(kind, name, write=True)
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        oid, number = repository.commit(revision, lines, pull_request="create_pr" in self.query)
        home = f"{self.hub.url}/{name if kind == 'models' else f'{kind}/{name}'}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{home}/commit/{oid}"}
        return 200, answer | ({"pullRequestUrl": f"{home}/discussions/{number}"} if number else {}), {}

    # Downloads

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> Answer:
        repository = self.find(kind, name)
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            return 404, {}, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        file = commit.files[path]
        headers["ETag"] = f'"{file.etag}"'
        if file.large:  # the real Hub redirects to another host here, after the same headers
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        return self.content(path, file.content, headers)

    def content(self, path: str, content: bytes, headers: dict[str, str]) -> Answer:
        headers = headers | {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.hub.fetched.append(path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return 200, content, headers
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return 206, content[start : end + 1], headers


_REPOSITORY = r"/api/(models|datasets)/([^/]+/[^/]+)"
_FILES = r"/(datasets/)?([^/]+/[^/]+?)"
_LARGE = r"/lfs/(models|datasets)/([^/]+/[^/]+)/([0-9a-f]{64})"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", HubHandler.whoami),
    ("POST", r"/api/repos/create", HubHandler.create),
    ("POST", r"/api/validate-yaml", HubHandler.validate_yaml),
    ("GET", rf"{_REPOSITORY}(?:/revision/([^/]+))?", HubHandler.describe),
    ("GET", rf"{_REPOSITORY}/auth-check(/write)?", HubHandler.check_rights),
    ("GET", rf"{_REPOSITORY}/tree/([^/]+)(?:/(.+))?", HubHandler.list_tree),
    ("POST", rf"{_REPOSITORY}/paths-info/([^/]+)", HubHandler.list_paths),
    ("GET", rf"{_REPOSITORY}/refs", HubHandler.list_refs),
    ("POST", rf"{_REPOSITORY}/(branch|tag)/([^/]+)", HubHandler.create_ref),
    ("POST", rf"{_REPOSITORY}/preupload/([^/]+)", HubHandler.preupload),
    ("POST", rf"{_REPOSITORY}/commit/([^/]+)", HubHandler.commit),
    ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("PUT", _LARGE, HubHandler.lfs_store),
    ("POST", rf"{_LARGE}/verify", HubHandler.lfs_verify),
    ("GET|HEAD", rf"{_FILES}/resolve/([^/]+)/(.+)", HubHandler.resolve),
]
