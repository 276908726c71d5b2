"""Damage of the kinds that files suffer: in transfer, on disk, by hand, and by somebody who means it.

Everything is drawn from one `random.Random`, so a case is told by its seed.
"""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    7,
    0.5,
    10**9,
    10**18,
    10**40,
    float("nan"),
    float("inf"),
    "",
    "text",
    "../../outside",
    [],
    [1, "two"],
    {},
    {"a": {"b": 1}},
)


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """A file that was cut, doubled, overwritten in part, or emptied."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(8))
    place, length = rng.randrange(len(content)), rng.randint(1, 64)

    def flip() -> bytes:
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 8, 200))):
            # Half of them in the first bytes, where formats keep what they are.
            at = rng.randrange(len(damaged) if rng.random() < 0.5 else min(len(damaged), 512))
            damaged[at] ^= 1 << rng.randrange(8)
        return bytes(damaged)

    ways: list[Callable[[], bytes]] = [
        flip,
        flip,
        lambda: content[:place],
        lambda: content[: rng.randint(0, min(len(content), 16))],
        lambda: content[:place] + bytes(length) + content[place + length :],
        lambda: content[:place] + rng.randbytes(length) + content[place:],
        lambda: content[:place] + content[place + length :],
        lambda: content + content,
        lambda: b"",
        lambda: b"\xef\xbb\xbf" + content,
    ]
    return rng.choice(ways)()


def mutate_json(content: bytes, rng: Random) -> bytes:
    """JSON with another value, key or nesting somewhere in it; now and then damaged as any file."""
    try:
        tree = json.loads(content)
    except ValueError:
        return mutate_bytes(content, rng)
    if rng.random() < 0.15:
        return mutate_bytes(content, rng)
    way = rng.random()
    if way < 0.05:
        return json.dumps(rng.choice(WRONG_VALUES)).encode()
    if way < 0.1:
        return b"[" * 100_000 + content
    places = list(_places(tree))
    if not places:
        return b"{}"
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        container, key = rng.choice(places)
        _change(container, key, rng)
    return json.dumps(tree).encode()


def mutate_safetensors(content: bytes, rng: Random) -> bytes:
    """Another header over the same numbers, or numbers that are not finite; now and then damaged as any file."""
    if rng.random() < 0.25 or len(content) < 8:
        return mutate_bytes(content, rng)
    (length,) = struct.unpack("<Q", content[:8])
    if rng.random() < 0.1:
        return struct.pack("<Q", rng.choice((0, 1, len(content), 2**40, 2**63))) + content[8:]
    header, numbers = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    way = rng.randrange(8)
    if way == 0:
        header[f"{name}.renamed"] = header.pop(name)
    elif way == 1:
        start, end = entry["data_offsets"]
        numbers[start:end] = struct.pack("<f", rng.choice((float("nan"), float("inf")))) * ((end - start) // 4)
    elif way == 2:
        entry["shape"] = entry["shape"][::-1] + rng.choice(([], [1]))
    elif way == 3:
        entry["dtype"] = rng.choice(("F16", "I32", "F64", "BOOL", "F99", 5))
    elif way == 4:
        entry["data_offsets"] = rng.choice(([0, 0], [0, 10**12], [8, 4], "all", [-4, 0]))
    elif way == 5:
        entry["shape"] = rng.choice(([], [10**12], [-1], [2**63, 2**63], "many", [1.5]))
    elif way == 6:
        return _drop_tensor(header, numbers, name)
    else:
        return _safetensors(mutate_json(json.dumps(header).encode(), rng), numbers)
    return _safetensors(json.dumps(header).encode(), numbers)


def mutate_folder(folder: Path, rng: Random) -> str:
    """
    Damage one file of a folder.

    Returns:
        what was done, for the message of a test.
    """
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    way = rng.random()
    if way < 0.04:
        path.unlink()
        return f"{path.name} removed"
    if way < 0.08:
        path.unlink()
        path.mkdir()
        return f"{path.name} is a folder"
    if way < 0.11:
        path.unlink()
        path.symlink_to(path.name)
        return f"{path.name} is a link to itself"
    if way < 0.14:
        other = rng.choice(sorted(other for other in folder.rglob("*") if other.is_file()))
        if other != path:
            shutil.copyfile(other, path)
        return f"{path.name} holds {other.name}"
    path.write_bytes(mutation_for(path)(path.read_bytes(), rng))
    return f"{path.name} changed"


def mutation_for(path: Path) -> Callable[[bytes, Random], bytes]:
    """What damages files of this kind most tellingly."""
    return {".json": mutate_json, ".safetensors": mutate_safetensors}.get(path.suffix, mutate_bytes)


def _places(tree: Any) -> Any:
    """Every container in a tree of JSON with every key in it."""
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in entries:
        yield tree, key
        yield from _places(value)


def _change(container: Any, key: Any, rng: Random) -> None:
    if key not in (container if isinstance(container, dict) else range(len(container))):
        return  # an earlier change took it away
    way = rng.randrange(6)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    elif way == 2:
        container[key] = {"nested": container[key]}
    elif way == 3:
        container[key] = [container[key]]
    else:
        container[key] = rng.choice(WRONG_VALUES)


def _drop_tensor(header: dict[str, Any], numbers: bytearray, name: str) -> bytes:
    start, end = header.pop(name)["data_offsets"]
    del numbers[start:end]
    for entry in (entry for name, entry in header.items() if name != "__metadata__"):
        entry["data_offsets"] = [offset - (end - start) * (offset >= end) for offset in entry["data_offsets"]]
    return _safetensors(json.dumps(header).encode(), numbers)


def _safetensors(header: bytes, numbers: bytes | bytearray) -> bytes:
    return struct.pack("<Q", len(header)) + header + numbers
