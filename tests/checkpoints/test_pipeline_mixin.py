"""The pipeline on disk and on the Hub."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_server import hub_server
from tiny_pipeline import ID2LABEL, generators, tiny_pipeline
from titok_hf import __version__
from titok_hf.checkpoints.layout import INDEX_NAME, VERSION_KEY
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler


@pytest.fixture
def pipe():
    return tiny_pipeline()


def test_saving_writes_safetensors_json_and_the_version(pipe, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path)  # over itself
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "image_processor",
        INDEX_NAME,
        "scheduler",
        "titok.py",
        "tokenizer",
        "transformer",
    ]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md", ".py"}
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index[VERSION_KEY] == __version__ and index["id2label"] == {str(k): v for k, v in ID2LABEL.items()}
    assert index["transformer"] == ["titok_hf.modeling_maskgit", "MaskGitTransformer1DModel"]


def test_a_failed_save_leaves_the_old_checkpoint(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    broken = tiny_pipeline(seed=1)
    broken.transformer.register_to_config(hidden_size=object())  # no JSON: fails after the tokenizer has been written
    with pytest.raises(TypeError):
        broken.save_pretrained(tmp_path / "pipe")
    with pytest.raises(TypeError):
        broken.save_pretrained(tmp_path / "other")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "other").exists()


def test_pickles_are_neither_written_nor_read(pipe, tmp_path):
    with pytest.raises(ValueError, match="safe_serialization"):
        pipe.save_pretrained(tmp_path, safe_serialization=False)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_safetensors"):
        TiTokPipeline.from_pretrained(tmp_path, use_safetensors=False)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(pipe.transformer.state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(OSError, match="safetensors"):
        TiTokPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["tokenizer/model", "transformer/diffusion_pytorch_model"])
def test_truncated_weights_are_one_clear_error(pipe, tmp_path, part):
    pipe.save_pretrained(tmp_path)
    weights = tmp_path / f"{part}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(OSError, match="damaged|Unable to load weights"):
        TiTokPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["tokenizer/model", "transformer/diffusion_pytorch_model"])
@pytest.mark.parametrize("damage", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_their_configuration_are_refused(pipe, tmp_path, part, damage):
    pipe.save_pretrained(tmp_path)
    weights = load_file(tmp_path / f"{part}.safetensors")
    name = sorted(weights)[0]
    if damage == "missing":
        del weights[name]
    elif damage == "unknown":
        weights["extra"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(3, 5)
    save_file(weights, tmp_path / f"{part}.safetensors", {"format": "pt"})
    message = {
        "missing": f"1 \\({name}\\) missing",
        "unknown": r"1 \(extra\) unknown",
        "misshapen": "fit|expected shape",
    }
    with pytest.raises((OSError, ValueError), match=message[damage]):
        TiTokPipeline.from_pretrained(tmp_path)


def test_weights_saved_in_shards_and_as_a_variant_are_complete(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    for loaded in (
        TiTokPipeline.from_pretrained(tmp_path),
        TiTokPipeline.from_pretrained(tmp_path / "variant", variant="fp16"),
    ):
        assert torch.equal(loaded.transformer.lm_head.weight, pipe.transformer.lm_head.weight)
        assert torch.equal(loaded.tokenizer.quantizer.codebook.weight, pipe.tokenizer.quantizer.codebook.weight)


def test_a_variant_lies_beside_the_plain_weights_and_each_is_saved_anew_alone(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="30KB")
    (tmp_path / "tokenizer" / "notes.txt").write_text("mine")
    half = tiny_pipeline(1).to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    again = tiny_pipeline(2)
    again.save_pretrained(tmp_path)
    for saved, variant in ((again, None), (half, "fp16")):
        loaded = TiTokPipeline.from_pretrained(tmp_path, variant=variant, dtype=saved.dtype)
        assert torch.equal(loaded.transformer.lm_head.weight, saved.transformer.lm_head.weight)
        assert torch.equal(loaded.tokenizer.quantizer.codebook.weight, saved.tokenizer.quantizer.codebook.weight)
    assert (tmp_path / "tokenizer" / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4 and not list(tmp_path.rglob("*.safetensors.index*"))


def test_a_device_map_that_does_not_exist_is_not_taken_for_damage(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="auto not supported"):
        TiTokPipeline.from_pretrained(tmp_path, device_map="auto")


def test_a_newer_checkpoint_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    (tmp_path / INDEX_NAME).write_text(json.dumps(index | {VERSION_KEY: "999.0"}))
    with pytest.raises(OSError, match="saved by titok_hf 999.0"):
        TiTokPipeline.from_pretrained(tmp_path)


def test_parts_can_be_replaced_when_loading(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    scheduler = MaskGitScheduler(mask_token_id=16, num_inference_steps=2)
    loaded = TiTokPipeline.from_pretrained(tmp_path, scheduler=scheduler)
    assert loaded.scheduler is scheduler and isinstance(loaded.transformer, MaskGitTransformer1DModel)
    assert loaded.config._name_or_path == str(tmp_path) and loaded.id2label == ID2LABEL


PROGRAM = """
import hashlib, sys, torch
from titok_hf import TiTokPipeline
for source in sys.argv[1:]:
    pipe = TiTokPipeline.from_pretrained(source)
    generator = [torch.Generator().manual_seed(seed) for seed in range(3)]
    images = pipe(["tabby", 1, 2], generator=generator, output_type="np").images
    print(hashlib.sha256(images.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_new_process_makes_the_same_images_from_a_folder_and_from_the_hub(pipe, tmp_path):
    folder = tmp_path / "pipe"
    pipe.save_pretrained(folder)
    images = pipe(["tabby", 1, 2], generator=generators(0, 1, 2), output_type="np").images
    with hub_server(folder, "user/titok") as (endpoint, _):
        environment = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), "user/titok"],
            env=os.environ | environment | {"HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [hashlib.sha256(images.tobytes()).hexdigest()] * 2
