"""A Hub whose one repository is a folder: enough for the real huggingface_hub client to download and to upload."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(folder: Path, repository: str, kind: str = "models") -> Iterator[tuple[str, list[str]]]:
    """
    Gives the address to set as HF_ENDPOINT, and a growing list of the files that were fetched. A repository of the
    kind "datasets" can be uploaded to, not downloaded from.
    """
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith(f"/api/{kind}/{repository}"):
                return self.describe(tree="/tree/" in path)
            for revision in ("main", COMMIT):
                prefix = f"/{repository}/resolve/{revision}/"
                if path.startswith(prefix) and (folder / path[len(prefix) :]).is_file():
                    return self.send_file(path[len(prefix) :])
            self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

        def do_POST(self) -> None:
            """An upload: create the repository, ask how each file should come, then one commit with all of them."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create":
                home = repository if kind == "models" else f"{kind}/{repository}"
                answer = {"id": repository, "url": f"http://{self.headers['Host']}/{home}"}
            elif self.path == "/api/validate-yaml":
                answer = {"errors": [], "warnings": []}
            elif self.path == f"/api/{kind}/{repository}/preupload/main":
                paths = [file["path"] for file in json.loads(body)["files"]]
                answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
            elif self.path == f"/api/{kind}/{repository}/commit/main":
                self.commit(body)
                answer = {
                    "commitOid": COMMIT,
                    "commitUrl": f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}",
                }
            else:
                return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def commit(self, body: bytes) -> None:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    path = folder / entry["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(entry["value"]["content"]))

        def describe(self, tree: bool) -> None:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [str(path.relative_to(folder)) for path in files]
            if tree:
                answer = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": "0" * 40}
                    for name, path in zip(names, files, strict=True)
                ]
            else:
                answer = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def send_file(self, name: str) -> None:
            content = (folder / name).read_bytes()
            if self.command == "GET":
                fetched.append(name)
            self.send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"X-Repo-Commit": COMMIT, "Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
