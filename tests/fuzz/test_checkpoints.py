"""Damaged checkpoints, ours and the original's: each loads rightly or is refused in one sentence that names it.

`FUZZ_CASES` is the number of cases of each kind and `FUZZ_SEED` the first seed: `make fuzz` runs many.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from original_pipeline import CONFIG, write_generator, write_tokenizer
from tiny_pipeline import tiny_pipeline, tiny_tokenizer
from titok_hf import (
    MaskGitScheduler,
    MaskGitTransformer1DModel,
    MaskGitVQGANConfig,
    MaskGitVQGANModel,
    TiTokModel,
    TiTokPipeline,
)
from titok_hf.checkpoints.folders import describe
from titok_hf.configuration_titok import VIT_SIZES
from titok_hf.original.flax_checkpoint import flax_bytes
from titok_hf.original.reading import read_state_dict

sys.path.insert(0, str(Path(__file__).parent))
from mutate import mutate_folder  # noqa: E402

CASES = int(os.environ.get("FUZZ_CASES", 8))
SEED = int(os.environ.get("FUZZ_SEED", 0))
SLOWEST = 30.0  # seconds that one case may take
LARGEST = 2e9  # bytes by which all cases together may enlarge the process


def save_vqgan(folder: Path) -> None:
    sizes: dict[str, Any] = {"base_channels": 8, "channel_multipliers": [1, 1], "num_groups": 4}
    MaskGitVQGANModel(MaskGitVQGANConfig(**sizes, codebook_dim=4, codebook_size=8)).save_pretrained(folder)


def save_original(folder: Path) -> None:
    """A tokenizer and its generator, the one as safetensors and the other as a pickle."""
    sizes = {"vit_enc_model_size": "tiny", "vit_dec_model_size": "tiny"}
    write_tokenizer(folder / "tokenizer", CONFIG | {"model": {"vq_model": CONFIG["model"]["vq_model"] | sizes}})
    write_generator(folder / "generator")
    shutil.copytree(folder / "generator", folder / "pickled")
    weights = folder / "pickled" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def save_flax(folder: Path) -> None:
    folder.mkdir()
    arrays = {f"params/{name}/kernel": np.ones((3, 3, 2, 4), np.float32) for name in "abc"}
    (folder / "checkpoint").write_bytes(flax_bytes(arrays))


def load_original(folder: Path) -> list[Any]:
    tokenizer = TiTokModel.from_pretrained(folder / "tokenizer")
    generators = [MaskGitTransformer1DModel.from_pretrained(folder / name) for name in ("generator", "pickled")]
    return [tokenizer, *generators, MaskGitScheduler.from_pretrained(folder / "generator")]


def load_pipeline(folder: Path) -> list[Any]:
    return list(TiTokPipeline.from_pretrained(folder).components.values())


def described(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """What `info` and `push` read of a folder, then the folder itself."""

    def describe_and_load(folder: Path) -> Any:
        try:
            describe(folder)
        except (OSError, ValueError) as error:
            assert folder.name in str(error), error
        return load(folder)

    return describe_and_load


SUBJECTS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "pipeline": (tiny_pipeline().save_pretrained, described(load_pipeline)),
    "pipeline in shards": (
        lambda folder: tiny_pipeline().save_pretrained(folder, max_shard_size="30KB"),
        load_pipeline,
    ),
    "tokenizer": (tiny_tokenizer().save_pretrained, described(TiTokModel.from_pretrained)),
    "generator": (tiny_pipeline().transformer.save_pretrained, described(MaskGitTransformer1DModel.from_pretrained)),
    "vqgan": (save_vqgan, described(MaskGitVQGANModel.from_pretrained)),
    "original": (save_original, load_original),
    "original of Flax": (save_flax, lambda folder: read_state_dict(folder / "checkpoint")),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undamaged folder of each kind. The original knows no network as small as the tests need: it gets a name."""
    top = tmp_path_factory.mktemp("whole")
    VIT_SIZES["tiny"] = (32, 1, 2)
    for name, (save, load) in SUBJECTS.items():
        save(top / name)
        load(top / name)
    yield {name: top / name for name in SUBJECTS}
    del VIT_SIZES["tiny"]


@pytest.mark.parametrize("name", SUBJECTS)
def test_damage_is_refused_in_one_sentence_or_does_no_harm(name, whole, tmp_path):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(SEED, SEED + CASES):
        folder = tmp_path / f"case-{seed}"
        shutil.copytree(whole[name], folder)
        damage = f"{name}, seed {seed}: {mutate_folder(folder, Random(seed))}"
        started = time.monotonic()
        assert_loads_or_is_refused(SUBJECTS[name][1], folder, damage)
        assert time.monotonic() - started < SLOWEST, damage
        shutil.rmtree(folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024  # Linux counts kilobytes
    assert grown < LARGEST


def assert_loads_or_is_refused(load: Callable[[Path], Any], folder: Path, damage: str) -> None:
    try:
        loaded = load(folder)
    except (OSError, ValueError) as error:
        message = str(error)
        assert folder.name in message, f"{damage}: names no file: {type(error).__name__}: {message}"
        assert len(message) < 1500, f"{damage}: {message[:200]}"
        return
    except BaseException as error:
        raise AssertionError(f"{damage}: {type(error).__name__}: {error}") from error
    for model in loaded if isinstance(loaded, list) else [loaded]:
        if isinstance(model, torch.nn.Module):
            weights = model.state_dict()
            assert all(tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point()), damage
            assert not any(tensor.is_meta for tensor in weights.values()), damage
