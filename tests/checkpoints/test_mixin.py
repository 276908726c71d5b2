"""What every model gets from `checkpoints.mixin`: safetensors only, clear errors, imports only when needed."""

import subprocess
import sys

import pytest
import torch

from tiny_pipeline import tiny_pipeline
from titok_hf import MaskGitTransformer1DModel, MaskGitVQGANConfig, MaskGitVQGANModel, TiTokModel

MODELS = {
    TiTokModel: lambda: tiny_pipeline().tokenizer,
    MaskGitTransformer1DModel: lambda: tiny_pipeline().transformer,
    MaskGitVQGANModel: lambda: MaskGitVQGANModel(
        MaskGitVQGANConfig(base_channels=8, channel_multipliers=[1, 1], num_groups=4, codebook_dim=4, codebook_size=8)
    ),
}


@pytest.mark.parametrize("cls", MODELS)
def test_a_pickle_in_place_of_safetensors_is_refused(cls, tmp_path):
    MODELS[cls]().save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    assert type(cls.from_pretrained(tmp_path)) is cls
    name = "pytorch_model.bin" if weights.name.startswith("model") else "diffusion_pytorch_model.bin"
    torch.save(MODELS[cls]().state_dict(), tmp_path / name)
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", MODELS)
def test_asking_for_a_pickle_is_refused(cls, tmp_path):
    MODELS[cls]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_safetensors is False"):
        cls.from_pretrained(tmp_path, use_safetensors=False)


@pytest.mark.parametrize("cls", MODELS)
def test_truncated_weights_are_named(cls, tmp_path):
    MODELS[cls]().save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match=f"{tmp_path}.*"):
        cls.from_pretrained(tmp_path)


def test_a_whole_pipeline_in_place_of_its_model_names_the_subfolder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    for cls, subfolder in ((TiTokModel, "tokenizer"), (MaskGitTransformer1DModel, "transformer")):
        with pytest.raises(
            OSError, match=f'{tmp_path} is a whole pipeline. Load its {cls.__name__} with subfolder="{subfolder}"'
        ):
            cls.from_pretrained(tmp_path)
        assert type(cls.from_pretrained(tmp_path, subfolder=subfolder)) is cls
    with pytest.raises(OSError) as refusal:
        MaskGitVQGANModel.from_pretrained(tmp_path)
    assert "whole pipeline" not in str(refusal.value)


IMPORTED = """
import sys
import titok_hf.modeling_maskgit, titok_hf.modeling_maskgit_vqgan, titok_hf.modeling_titok, titok_hf.scheduling_maskgit
print(*(name for name in sys.modules if name.startswith("titok_hf.")))
"""


def test_a_model_file_imports_neither_cards_nor_transfers_nor_readers_of_other_formats():
    process = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, timeout=120)
    imported = set(process.stdout.split())
    assert "titok_hf.checkpoints.mixin" in imported
    allowed = (
        "atomic_files",
        "layout",
        "mixin",
        "remote_code",
    )  # configurations are saved with remote code
    assert {name for name in imported if name.startswith("titok_hf.checkpoints.")} <= {
        f"titok_hf.checkpoints.{name}" for name in allowed
    }
    assert not [name for name in imported if name.startswith(("titok_hf.original", "titok_hf.pipeline"))]
