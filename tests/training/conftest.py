"""Real pictures for the trainers, and recipes of every kind that take a second."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from titok_hf.bundled import example_images
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel
from training_runs import forget_accelerate

TINY_TOKENIZER = {
    "patch_size": 8,
    "encoder_hidden_size": 16,
    "encoder_num_hidden_layers": 1,
    "encoder_num_attention_heads": 2,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "num_latent_tokens": 4,
    "codebook_size": 16,
    "codebook_dim": 4,
}
# Eight pixels a code, as many as in a patch of the tokenizer.
TINY_VQGAN = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 1, 1],
    "num_resnet_blocks": 1,
    "num_groups": 4,
    "codebook_size": 16,
    "codebook_dim": 4,
}
TINY_ADVERSARIAL = {"weight": 0.1, "start_step": 3, "learning_rate": 1e-3, "hidden_channels": 32, "num_stages": 1}


@pytest.fixture(autouse=True)
def fresh_accelerate_state() -> Iterator[None]:
    """Each test starts without another one's precision and accumulation."""
    yield
    forget_accelerate()


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of 10 classes, 28 x 28, as `train` and as `test`."""
    folder = tmp_path_factory.mktemp("pictures")
    for picture in example_images():
        for split in ("train", "test"):
            class_folder = folder / split / picture.stem.rsplit("_", 1)[0]
            class_folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, class_folder)
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MaskGIT-VQGAN with random weights, whose codes tell pictures apart."""
    torch.manual_seed(0)
    model = MaskGitVQGANModel(MaskGitVQGANConfig(**TINY_VQGAN))
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stage1_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with random weights that ends in the proxy codes of `teacher`."""
    torch.manual_seed(1)
    config = TiTokConfig(image_size=32, decoder_head="proxy_codes", proxy_codebook_size=16, **TINY_TOKENIZER)
    folder = tmp_path_factory.mktemp("stage1")
    TiTokModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer_values(picture_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The values of a tokenizer recipe that takes a second."""
    return {
        "kind": "tokenizer",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": str(picture_folder), "image_size": 32, "resize_mode": "pad"},
        "model": dict(TINY_TOKENIZER),
        "optimization": {"num_steps": 8, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 2},
        "intervals": {
            "log_every": 2,
            "evaluate_every": 4,
            "checkpoint_every": 3,
            "num_test_images": 20,
            "trackers": [],
        },
    }


@pytest.fixture
def stage1_values(tokenizer_values: dict[str, Any], teacher: Path) -> dict[str, Any]:
    return tokenizer_values | {"kind": "tokenizer_stage1", "teacher": str(teacher)}


@pytest.fixture
def stage2_values(tokenizer_values: dict[str, Any], teacher: Path, stage1_tokenizer: Path) -> dict[str, Any]:
    values = {key: value for key, value in tokenizer_values.items() if key != "model"}
    values |= {"kind": "tokenizer_stage2", "teacher": str(teacher), "tokenizer": str(stage1_tokenizer)}
    return values | {"loss": {"quantizer_weight": 0.0, "adversarial": dict(TINY_ADVERSARIAL)}}


@pytest.fixture
def vqgan_values(tokenizer_values: dict[str, Any]) -> dict[str, Any]:
    return tokenizer_values | {"kind": "vqgan", "model": dict(TINY_VQGAN)}


@pytest.fixture
def generator_values(tokenizer_values: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A generator over the codes of a tokenizer with random weights, encoded batch by batch."""
    torch.manual_seed(2)
    TiTokModel(TiTokConfig(image_size=32, **TINY_TOKENIZER)).save_pretrained(tmp_path / "tokenizer")
    model = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sampler = {"num_inference_steps": 3, "guidance_scale": 3.0, "guidance_schedule": "linear"}
    values = {"kind": "generator", "tokenizer": str(tmp_path / "tokenizer"), "model": model, "sampler": sampler}
    return tokenizer_values | values


@pytest.fixture
def values_of(request: pytest.FixtureRequest) -> Any:
    """
    `values_of(name)`: the values of one of the recipes above; also "kl", a tokenizer with a Gaussian, and "gan", one
    with a codebook and a discriminator.
    """

    def values_of(name: str) -> dict[str, Any]:
        if name in ("kl", "gan"):
            values = copy.deepcopy(request.getfixturevalue("tokenizer_values"))
            if name == "kl":
                values["model"]["quantizer"] = "kl"
                return values | {"loss": {"quantizer_weight": 1e-6}}
            return values | {"loss": {"adversarial": dict(TINY_ADVERSARIAL), "reinitialize_codes": True}}
        return copy.deepcopy(request.getfixturevalue(f"{name}_values"))

    return values_of
