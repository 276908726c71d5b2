"""Flax's files, read and written without Flax."""

import json

import msgpack
import numpy as np
import pytest
import torch

from golden_checkpoints import GOLDEN
from titok_hf.original.flax_checkpoint import flax_bytes, read_flax, read_flax_tensors

SAMPLE = GOLDEN / "flax_msgpack_sample.msgpack"
EXPECTED = json.loads((GOLDEN / "flax_msgpack_sample.json").read_text())["expected"]


def test_a_file_that_flax_wrote_has_every_leaf():
    assert read_flax(SAMPLE).keys() == EXPECTED.keys()


@pytest.mark.parametrize("path", EXPECTED)
def test_leaves_are_what_flax_wrote(path):
    leaf, expected = read_flax(SAMPLE)[path], EXPECTED[path]
    if expected["type"] in ("int", "str"):
        assert leaf == expected["value"]
    elif expected["type"] == "none":
        assert leaf is None
    else:
        dtype = "float32" if expected["dtype"] == "bfloat16" else expected["dtype"]
        assert leaf.dtype == dtype
        assert leaf.shape == tuple(expected["shape"])
        assert leaf.ravel().astype(float).tolist() == expected["values"]
        if expected["type"] == "array":
            assert leaf.flags.writeable


def test_complex_numbers(tmp_path):
    file = tmp_path / "complex"
    file.write_bytes(msgpack.packb({"z": msgpack.ExtType(2, msgpack.packb([1.5, -2.0]))}))
    assert read_flax(file) == {"z": 1.5 - 2.0j}


def test_tensors_are_the_arrays_below_params():
    tensors = read_flax_tensors(SAMPLE)
    assert "params/a/kernel" in tensors and "list/0" not in tensors
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


def test_what_is_written_is_read_again(tmp_path):
    leaves = {
        "params/b/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "params/a/scale": np.ones(2, np.float16),
    }
    (tmp_path / "file").write_bytes(flax_bytes(leaves))
    again = read_flax(tmp_path / "file")
    assert list(again) == ["params/a/scale", "params/b/kernel"]  # sorted, as Flax sorts
    for path, leaf in leaves.items():
        assert again[path].dtype == leaf.dtype
        np.testing.assert_array_equal(again[path], leaf)


def packed(kind, content):
    return msgpack.packb({"params": {"x": msgpack.ExtType(kind, content)}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SAMPLE.read_bytes()[:-5], "damaged"),
        (SAMPLE.read_bytes() + b"more", "damaged"),
        (b"", "damaged"),
        (b"PK\x03\x04 not msgpack", "damaged|holds a"),
        (msgpack.packb([1, 2]), "holds a list"),
        (packed(7, b""), "unknown extension type 7"),
        (packed(1, msgpack.packb([[2], "float32", b"1234"])), "damaged"),
        (packed(1, msgpack.packb([[2], "object", b"12345678" * 2])), "object"),
        (packed(1, msgpack.packb([[1], "no-such-type", b"1234"])), "damaged"),
        (packed(1, b"\xc1"), "damaged"),
        (packed(1, msgpack.packb([[1]])), "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(OSError, match=message):
        read_flax(tmp_path / "file")


def test_chunks_that_do_not_add_up_are_refused(tmp_path):
    chunk = msgpack.ExtType(1, msgpack.packb([[2], "float32", bytes(8)]))
    array = {"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {"0": chunk}}
    (tmp_path / "file").write_bytes(msgpack.packb({"params": {"x": array}}))
    with pytest.raises(OSError, match=r"2 values for the shape \(3,\)"):
        read_flax(tmp_path / "file")


def test_a_file_without_parameters_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(flax_bytes({"opt_state/x": np.zeros(1)}))
    with pytest.raises(OSError, match=r"no arrays under the key 'params'.*opt_state"):
        read_flax_tensors(tmp_path / "file")
