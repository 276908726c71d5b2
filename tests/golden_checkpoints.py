"""Original checkpoints for tests: manifests of the real ones, filled with reproducible numbers or left hollow."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import golden_fill

GOLDEN = Path(__file__).parent / "data" / "golden"
MANIFESTS = sorted(path.stem for path in (GOLDEN / "manifests").glob("*.json"))


def manifest(name: str) -> dict[str, Any]:
    """Names and shapes of a checkpoint, and its configuration if it has one."""
    return json.loads((GOLDEN / "manifests" / f"{name}.json").read_text())


def figures(case: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the original computed: scalars and statistics, and arrays."""
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        return json.loads((GOLDEN / f"{case}.json").read_text()), {
            name: torch.from_numpy(arrays[name]) for name in arrays.files
        }


def write_checkpoint(name: str, folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """
    A folder as on the Hub, `config.json` and `model.safetensors`; or one bare pickle where the original has no config.

    Args:
        name: of a manifest.
        folder: where to write.
        tensors: its state dict; by default filled for comparison with the figures.
    """
    original = manifest(name)
    tensors = golden_fill.fill_state_dict(original) if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    if "config" not in original:
        torch.save(tensors, folder / original["checkpoint_file"])
        return folder / original["checkpoint_file"]
    (folder / "config.json").write_text(json.dumps(original["config"]))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def hollow_tensors(name: str) -> dict[str, torch.Tensor]:
    """A state dict of the right names and shapes that takes no memory: each tensor repeats one number."""
    tensors = {}
    for index, entry in enumerate(manifest(name)["tensors"]):
        number = torch.tensor(1e-3 * (1 + index % 7))
        tensors[entry["key"]] = number.long() if entry.get("fill") == "arange" else number
        tensors[entry["key"]] = tensors[entry["key"]].expand(entry["shape"])
    return tensors


@contextmanager
def small_weights(model: torch.nn.Module) -> Iterator[None]:
    """All weights times 2^-6, which is exact and makes a wrong epsilon of a normalisation show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2**-6)
        yield
        for parameter in model.parameters():
            parameter.mul_(2**6)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()
