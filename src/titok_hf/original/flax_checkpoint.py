"""Flax checkpoints without Flax: `flax.serialization.to_bytes` and back, with msgpack and numpy alone.

The file is one msgpack object: nested maps with text keys, whose leaves are plain values or extensions of three types.
Flax turns lists into maps with the keys "0", "1", ..., and cuts arrays of more than 2^30 bytes into chunks.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"


def read_flax(path: str | os.PathLike) -> dict[str, Any]:
    """
    The leaves of a file of `flax.serialization.to_bytes` by their "/"-joined paths: writable numpy arrays (bfloat16 as
    float32) and Python values. OSError if the file is damaged, or holds something else.
    """
    try:
        tree = msgpack.unpackb(Path(path).read_bytes(), ext_hook=_decode)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise OSError(
            f"{path} is not a Flax checkpoint, or is damaged ({error or type(error).__name__}). Download it again."
        ) from error
    if not isinstance(tree, dict):
        raise OSError(f"{path} is not a Flax checkpoint: it holds a {type(tree).__name__}, not a map of arrays.")
    return dict(_leaves(tree))


def read_flax_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The arrays under the top-level map `params`. OSError as [`read_flax`], or if there are none."""
    leaves = read_flax(path)
    tensors = {
        name: torch.from_numpy(leaf)
        for name, leaf in leaves.items()
        if name.startswith("params/") and isinstance(leaf, np.ndarray)
    }
    if not tensors:
        tops = sorted({leaf.partition("/")[0] for leaf in leaves})
        raise OSError(f"{path} has no arrays under the key 'params'. Its top-level keys: {tops}.")
    return tensors


def flax_bytes(leaves: Mapping[str, np.ndarray]) -> bytes:
    """As `flax.serialization.to_bytes`, of arrays of at most 2^30 bytes by their "/"-joined paths, in sorted order."""
    tree: dict[str, Any] = {}
    for path in sorted(leaves, key=lambda path: path.split("/")):
        *levels, leaf = path.split("/")
        node = tree
        for level in levels:
            node = node.setdefault(level, {})
        array = np.ascontiguousarray(leaves[path])
        content = msgpack.packb([list(leaves[path].shape), array.dtype.name, array.tobytes()])
        node[leaf] = msgpack.ExtType(_ARRAY, content)
    return msgpack.packb(tree)


def _decode(kind: int, content: bytes) -> Any:
    """One extension: an array, a complex number or a numpy scalar."""
    if kind == _COMPLEX:
        return complex(*msgpack.unpackb(content))
    if kind not in (_ARRAY, _SCALAR):
        raise ValueError(f"unknown extension type {kind}")
    shape, dtype, data = msgpack.unpackb(content)
    if dtype == "bfloat16":  # the upper half of a float32, and a name that numpy does not know
        array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif np.dtype(dtype).hasobject:
        raise ValueError(f"arrays of dtype {dtype}")
    else:
        array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    # frombuffer gives a read-only view; torch wants memory of its own.
    array = array.astype(array.dtype.newbyteorder("="), copy=True).reshape(shape)
    return array if kind == _ARRAY else array[()]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves in file order, chunked arrays joined."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict) and value.get(_CHUNKED):
            leaves.append((f"{prefix}{key}", _join_chunks(value)))
        elif isinstance(value, dict):
            leaves += _leaves(value, f"{prefix}{key}/")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def _join_chunks(chunked: Mapping[str, Any]) -> np.ndarray:
    shape, chunks = (
        [part[str(index)] for index in range(len(part))] for part in (chunked["shape"], chunked["chunks"])
    )
    joined = np.concatenate([chunk.ravel() for chunk in chunks])
    if joined.size != math.prod(shape):
        raise OSError(f"A chunked array has {joined.size} values for the shape {tuple(shape)}: the file is damaged.")
    return joined.reshape(shape)
