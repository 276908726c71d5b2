"""Synthetic weights, pictures, noise and ids for the golden tests, equal on every machine.

Each value is a pure function of a text key: the first 8 bytes of the key's SHA-256, read big endian, seed numpy's
Philox4x64-10 counter generator, whose raw 64-bit words are fixed by its specification. Only integer arithmetic and
single float32 operations follow, so the results are equal to the bit wherever they are made.

The golden figures in `tests/data` were computed with weights filled by these rules under the *original* state-dict
keys. `NAME` below is such a key, `salt` tells fillings of the same network apart.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# The sum of the two 16-bit halves of a uniform 32-bit word, centred, has this standard deviation.
TRIANGLE_STD = math.sqrt((65536.0**2 - 1.0) / 6.0)

# Large enough to hide Python's overhead, small enough that filling a billion weights needs no second copy of them.
WORDS_A_CHUNK = 1 << 17

TOKEN_PARAMETERS = frozenset(
    {
        "positional_embedding",
        "latent_token_positional_embedding",
        "class_embedding",
        "latent_tokens",
        "mask_token",
        "pos_embed",
    }
)
TABLE_MODULES = frozenset(
    {"embedding", "word_embeddings", "position_embeddings", "token_type_embeddings", "embeddings"}
)
GAINS = {
    "decoder.ffn.2.weight": 4.0,
    "lm_head.weight": 3.0,
    "encoder.patch_embed.weight": 3.0,
    "attn.in_proj_weight": 2.2,
    "attn.qkv.weight": 1.5,
    "attn.out_proj.weight": 1.5,
    "self.query.weight": 2.5,
    "self.key.weight": 2.5,
    "output.dense.weight": 0.2,
    "attention.output.dense.weight": 0.25,
}


def _generator(key: str) -> np.random.Philox:
    return np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def _size(shape: Sequence[int]) -> int:
    return math.prod(shape)


def raw(key: str, n: int) -> np.ndarray:
    """The first `n` uint64 words of the stream that `key` names."""
    return np.asarray(_generator(key).random_raw(n), dtype=np.uint64)


def normal(key: str, shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """float32 values of a triangular law with the given mean and standard deviation, two from each word."""
    generator = _generator(key)
    values = np.empty(_size(shape), dtype=np.float32)
    scale = np.float32(std * (1.0 / TRIANGLE_STD))
    for chunk in np.split(values, range(2 * WORDS_A_CHUNK, len(values), 2 * WORDS_A_CHUNK)):
        words = np.asarray(generator.random_raw((len(chunk) + 1) // 2), dtype="<u8")
        halves = words.view("<u4")[: len(chunk)]
        np.subtract((halves & 0xFFFF) + (halves >> 16), np.float32(65535), out=chunk, dtype=np.float32)
        chunk *= scale
        if mean:
            chunk += np.float32(mean)
    return values.reshape(shape)


class UniformStream:
    """Consecutive uniform draws from one stream, each of them in C order."""

    def __init__(self, key: str) -> None:
        self.generator = _generator(key)

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """The next float32 values in [0, 1), on a grid of 2^-24."""
        words = np.asarray(self.generator.random_raw(_size(shape)), dtype=np.uint64)
        return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


def uniform(key: str, shape: Sequence[int]) -> np.ndarray:
    """float32 values in [0, 1)."""
    return UniformStream(key).draw(shape)


def integers(key: str, shape: Sequence[int], n: int) -> np.ndarray:
    """int64 values in [0, n): each word modulo n."""
    return (raw(key, _size(shape)) % np.uint64(n)).astype(np.int64).reshape(shape)


def image_u8(seed: str, index: int, size: int = 256, channels: int = 3) -> np.ndarray:
    """A picture (size, size, channels) uint8: noise at four scales, coarse scales weighing most."""
    total = np.zeros((size, size, channels), dtype=np.int64)
    for cells, weight in ((4, 6), (16, 5), (64, 3), (256, 2)):
        noise = integers(f"image:{seed}:{index}:{cells}", (cells, cells, channels), 256)
        nearest = np.arange(size) * cells // size
        total += weight * noise[np.ix_(nearest, nearest)]
    return np.clip(128 + (total - 2048) // 8, 0, 255).astype(np.uint8)


def image_batch(seed: str, n: int = 2, size: int = 256) -> torch.Tensor:
    """Pictures 0 to n - 1 of a seed: (n, 3, size, size) float32 in [0, 1]."""
    pictures = np.stack([image_u8(seed, index, size) for index in range(n)])
    return torch.from_numpy(pictures.astype(np.float32) / np.float32(255)).permute(0, 3, 1, 2).contiguous()


def rule(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation of the weight `name`; matrices get gains that keep attention peaked."""
    module, _, leaf = name.rpartition(".")
    if leaf in TOKEN_PARAMETERS:
        return 0.0, 0.3
    if len(shape) < 2:
        return (1.0, 0.1) if leaf == "weight" else (0.0, 0.1)
    if leaf == "weight" and module.rpartition(".")[2] in TABLE_MODULES:
        return 0.0, 0.3
    endings = [ending for ending in GAINS if name.endswith(ending)]
    gain = GAINS[max(endings, key=len)] if endings else 1.0
    return 0.0, gain / math.sqrt(_size(shape[1:]))


def fill_tensor(name: str, shape: Sequence[int], salt: str = "") -> torch.Tensor:
    """The float32 weight `name` of an original state dict."""
    return torch.from_numpy(normal(f"weight:{salt}:{name}", tuple(shape), *rule(name, shape)))


def fill_state_dict(manifest: dict[str, Any], salt: str = "") -> dict[str, torch.Tensor]:
    """A whole original state dict.

    Args:
        manifest: its `"tensors"` is a list of `{"key", "shape"}` entries; `"fill": "arange"` asks for 0, 1, ..., and
            `"fill": "keep"` leaves out a constant that the module builds itself.
        salt: names the filling.
    """
    state_dict = {}
    for entry in manifest["tensors"]:
        name, shape, kind = entry["key"], tuple(entry["shape"]), entry.get("fill")
        if kind == "arange":
            state_dict[name] = torch.arange(shape[-1]).expand(shape).clone()
        elif kind != "keep":
            state_dict[name] = fill_tensor(name, shape, salt)
    return state_dict
