"""
ONNX Runtime Web, which runs models in browsers: one version of its npm package, in the user's cache.

`python space/static/onnxruntime_web.py` downloads it. `make test` does so before the tests, which run offline.
"""

import base64
import hashlib
import os
import sys
from pathlib import Path
from urllib.request import urlopen

# With version 1.30.0, whose WebAssembly has 14.2 MB instead of 12.4, the page would have more than 20 MB.
VERSION = "1.24.3"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = "41dDq7fxtTm0XzGE7N0d6m8FcOY8EWtUA65GkOixJPB/G7DGzBmiDAnVVXHznRw9bgUZpb+4/1lQK/PNxGpbrQ=="
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page needs of it, for models on the CPU; in the folder `package/dist` of the archive."""


def cached_archive() -> Path | None:
    """The archive in the cache, or None if it is not there or damaged."""
    path = _cache() / Path(URL).name
    return path if path.is_file() and _is_intact(path.read_bytes()) else None


def archive_path() -> Path:
    """The archive, downloaded if the cache does not have it; OSError if that fails."""
    cached = cached_archive()
    if cached is not None:
        return cached
    try:
        with urlopen(URL, timeout=60) as response:
            content = response.read()
    except OSError as error:
        raise OSError(f"{URL} cannot be downloaded: {error}") from error
    if not _is_intact(content):
        raise OSError(f"{URL} has another content than expected. Check who answers for the site.")
    _cache().mkdir(parents=True, exist_ok=True)
    path = _cache() / Path(URL).name
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    return part.replace(path)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "titok-hf"


def _is_intact(content: bytes) -> bool:
    return hashlib.sha512(content).digest() == base64.b64decode(SHA512)


if __name__ == "__main__":
    try:
        archive_path()
    except OSError as error:
        sys.exit(str(error))
