"""Models on disk: loaded whole or refused, and saved without a trace of what the new weights replace."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_server import hub_server
from tiny_pipeline import tiny_pipeline
from titok_hf import MaskGitTransformer1DModel, MaskGitVQGANConfig, MaskGitVQGANModel, TiTokModel


def tiny_vqgan(seed: int = 0) -> MaskGitVQGANModel:
    torch.manual_seed(seed)
    sizes = {"base_channels": 8, "channel_multipliers": [1, 1], "num_groups": 4}
    return MaskGitVQGANModel(MaskGitVQGANConfig(**sizes, codebook_dim=4, codebook_size=8))


MODELS = {
    TiTokModel: lambda seed=0: tiny_pipeline(seed).tokenizer,
    MaskGitTransformer1DModel: lambda seed=0: tiny_pipeline(seed).transformer,
    MaskGitVQGANModel: tiny_vqgan,
}


def drop(weights, name):
    del weights[name]


def rename(weights, name):
    weights[f"module.{name}"] = weights.pop(name)


def add(weights, name):
    weights["extra"] = torch.zeros(1)


def misshape(weights, name):
    weights[name] = torch.zeros(3, 5)


def round_off(weights, name):
    weights[name] = weights[name].long()


def diverge(weights, name):
    weights[name].flatten()[0] = torch.nan


def overflow(weights, name):
    weights[name].flatten()[0] = -torch.inf


DAMAGE = {
    drop: "1 .* missing",
    rename: "1 .* missing, 1 .* unknown",
    add: "1 .extra. unknown",
    misshape: r"1 .*\(3, 5\) for .* misshapen",
    round_off: "1 .* I64. not floating-point",
    diverge: "not finite: 1 .* NaN",
    overflow: "not finite: 1 .* NaN",
}


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("cls", MODELS)
def test_weights_that_are_not_whole_are_refused(cls, shards, tmp_path):
    MODELS[cls]().save_pretrained(tmp_path, max_shard_size="20KB" if shards else None)
    path = sorted(tmp_path.glob("*.safetensors"))[0]
    whole = path.read_bytes()
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == shards
    for damage, message in DAMAGE.items():
        weights = load_file(path)
        damage(weights, sorted(weights)[0])
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(OSError, match=f"{tmp_path}.*{message}"):
            cls.from_pretrained(tmp_path)
        path.write_bytes(whole)
    cls.from_pretrained(tmp_path)


def test_who_asks_what_does_not_fit_is_told(tmp_path):
    MODELS[TiTokModel]().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "quantizer.codebook.weight"
    add(weights, name)
    misshape(weights, name)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = TiTokModel.from_pretrained(tmp_path, **options)
    assert found["unexpected_keys"] == {"extra"} and [entry[0] for entry in found["mismatched_keys"]] == [name]
    assert model.quantizer.codebook.weight.isfinite().all()


def test_weights_that_the_asked_dtype_cannot_hold_are_refused(tmp_path):
    model = MODELS[MaskGitTransformer1DModel]()
    model.lm_head.weight.data[0, 0] = 1e6
    model.save_pretrained(tmp_path)
    MaskGitTransformer1DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(OSError, match="lm_head.weight.*the dtype asked for is too small"):
        MaskGitTransformer1DModel.from_pretrained(tmp_path, dtype=torch.float16)


@pytest.mark.parametrize("shard", ["weights.bin", "../weights.safetensors", "/weights.safetensors", 5])
@pytest.mark.parametrize("cls", [TiTokModel, MaskGitTransformer1DModel])
def test_an_index_names_nothing_but_safetensors_beside_it(cls, shard, tmp_path):
    folder = tmp_path / "model"
    MODELS[cls]().save_pretrained(folder, max_shard_size="20KB")
    (index,) = folder.glob("*.index.json")
    content = json.loads(index.read_text())
    first = sorted(content["weight_map"].values())[0]
    if isinstance(shard, str):  # they are there, and hold the right tensors
        weights = load_file(folder / first)
        shard = str(tmp_path / shard) if shard.startswith("/") else shard
        torch.save(weights, folder / "weights.bin")
        save_file(weights, tmp_path / "weights.safetensors", {"format": "pt"})
    content["weight_map"] = {name: shard if file == first else file for name, file in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    with pytest.raises(OSError, match=f"{index.name} names .* as a weights file. Only safetensors"):
        cls.from_pretrained(folder)


PROGRAM = """
from titok_hf import TiTokModel
TiTokModel.from_pretrained("user/titok")
"""


@pytest.mark.slow
def test_a_checkpoint_of_the_hub_is_checked_like_a_folder_and_asked_for_once(tmp_path):
    folder = tmp_path / "model"
    MODELS[TiTokModel]().save_pretrained(folder, max_shard_size="20KB")
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")}

    def load() -> tuple[str, set[str]]:
        with hub_server(folder, "user/titok") as (endpoint, fetched):
            command = [sys.executable, "-c", PROGRAM]
            result = subprocess.run(
                command, env=environment | {"HF_ENDPOINT": endpoint}, capture_output=True, text=True, timeout=60
            )
            return result.stderr, set(fetched)

    errors, fetched = load()
    assert "Error" not in errors and fetched == {path.name for path in folder.iterdir()} - {"README.md", "titok.py"}
    (index,) = folder.glob("*.index.json")
    index.write_text(index.read_text().replace("model-00001-of", "../model-00001-of"))
    environment["HF_HOME"] = str(tmp_path / "another-cache")
    errors, fetched = load()
    assert "OSError" in errors and "model.safetensors.index.json names '../model-00001-of" in errors
    assert not [name for name in fetched if name.endswith(".safetensors")]


def test_a_configuration_is_not_built_before_it_is_known_to_fit(tmp_path):
    MODELS[TiTokModel]().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"encoder_num_hidden_layers": 10**9}, "encoder_num_hidden_layers is 1000000000 for"),
        ({"encoder_hidden_size": 10**6}, "misshapen"),
        ({"num_latent_tokens": "8"}, "num_latent_tokens"),
        ({"mlp_ratio": float("inf")}, "config.json is damaged"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises((OSError, ValueError), match=f"{tmp_path}.*{message}"):
            TiTokModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", MODELS)
def test_weights_without_a_configuration_are_not_taken_for_those_of_the_default_one(cls, tmp_path):
    MODELS[cls]().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(OSError, match="config.json"):
        cls.from_pretrained(tmp_path)
    (tmp_path / "config.json").symlink_to("config.json")
    with pytest.raises(OSError, match="config.json"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("cls", MODELS)
def test_the_new_weights_load_whatever_form_the_old_ones_had(cls, variant, tmp_path):
    models = [MODELS[cls](seed) for seed in range(4)]
    other = MODELS[cls](9)
    other.save_pretrained(tmp_path, variant="ema")
    pickle = "pytorch_model.bin" if cls is not MaskGitTransformer1DModel else "diffusion_pytorch_model.bin"
    pickle = pickle.replace(".bin", f".{variant}.bin") if variant else pickle
    for model, size in zip(models, ("20KB", None, "40KB", None), strict=True):
        torch.save(other.state_dict(), tmp_path / pickle)
        (tmp_path / "adapter_model.safetensors").write_text("mine")
        model.save_pretrained(tmp_path, variant=variant, max_shard_size=size)
        loaded = cls.from_pretrained(tmp_path, variant=variant)
        assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert not (tmp_path / pickle).exists() and (tmp_path / "adapter_model.safetensors").read_text() == "mine"
    loaded = cls.from_pretrained(tmp_path, variant="ema")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in other.state_dict().items())
    assert not list(tmp_path.glob("*index*")) and len(list(tmp_path.glob("*.safetensors"))) == 3


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("cls", MODELS)
def test_all_files_have_the_permissions_of_the_umask(cls, tmp_path):
    MODELS[cls]().save_pretrained(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
