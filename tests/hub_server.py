"""A Hub that serves one folder as one repository, read only: enough for the real huggingface_hub client."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(folder: Path, repository: str) -> Iterator[tuple[str, list[str]]]:
    """Gives the address to set as HF_ENDPOINT, and a growing list of the files that were fetched."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith(f"/api/models/{repository}"):
                return self.describe(tree="/tree/" in path)
            for revision in ("main", COMMIT):
                prefix = f"/{repository}/resolve/{revision}/"
                if path.startswith(prefix) and (folder / path[len(prefix) :]).is_file():
                    return self.send_file(path[len(prefix) :])
            self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

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
            if self.command == "GET":
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
