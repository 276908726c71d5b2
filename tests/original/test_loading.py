"""`from_pretrained` and `from_original` on original checkpoints: folders, bare files, a Hub, and what does not fit."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden_checkpoints import hollow_tensors, manifest, write_checkpoint
from hub_server import hub_server
from original_pipeline import write_generator, write_tokenizer
from titok_hf import MaskGitScheduler, MaskGitTransformer1DModel, MaskGitVQGANModel, TiTokModel, TiTokPipeline
from titok_hf.original import CheckpointMismatchError, generator_adapter, titok_adapter


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer and its generator in the original's format."""
    folder = tmp_path_factory.mktemp("original")
    return write_tokenizer(folder / "tokenizer"), write_generator(folder / "generator")


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory):
    """The smallest released architecture as a bare file."""
    path = tmp_path_factory.mktemp("bare") / "tokenizer.bin"
    torch.save(hollow_tensors("tokenizer_s128_stage1"), path)
    return path


def same_weights(model, folder, make_adapter) -> bool:
    original = load_file(folder / "model.safetensors")
    back = make_adapter(model.config, model.state_dict()).to_original(model.state_dict())
    return back.keys() == original.keys() and all(torch.equal(back[key], tensor) for key, tensor in original.items())


def test_a_tokenizer_folder_loads_and_is_saved_in_our_format(folders, tmp_path):
    model = TiTokModel.from_pretrained(folders[0])
    assert not model.training and model.config.num_latent_tokens == 4
    assert same_weights(model, folders[0], titok_adapter)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "titok"
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    again = TiTokModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("architecture", ["ViT", "UViT"])
def test_a_generator_folder_loads_and_is_saved_in_our_format(architecture, tmp_path):
    folder = write_generator(tmp_path / "original", model_type=architecture)
    model = MaskGitTransformer1DModel.from_pretrained(folder)
    assert not model.training and model.config.num_classes == 1000
    assert same_weights(model, folder, generator_adapter)
    model.save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["_class_name"] == "MaskGitTransformer1DModel" and str(tmp_path) not in json.dumps(config)
    again = MaskGitTransformer1DModel.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_arguments_of_the_libraries_are_kept(folders):
    tokenizer = TiTokModel.from_pretrained(folders[0], dtype=torch.bfloat16, attn_implementation="eager")
    assert tokenizer.dtype == torch.bfloat16 and tokenizer.config._attn_implementation == "eager"
    assert MaskGitTransformer1DModel.from_pretrained(folders[1], dtype=torch.float16).dtype == torch.float16
    with pytest.raises(TypeError, match="does not take device_map for an original checkpoint"):
        MaskGitTransformer1DModel.from_pretrained(folders[1], device_map="auto")


def test_a_subclass_stays_a_subclass(folders):
    class Mine(MaskGitTransformer1DModel):
        pass

    assert type(Mine.from_pretrained(folders[1])) is Mine


def test_a_scheduler_takes_the_published_settings(folders, tmp_path):
    scheduler = MaskGitScheduler.from_pretrained(folders[1])
    assert (scheduler.config.guidance_scale, scheduler.config.guidance_schedule) == (5.5, "linear")
    assert scheduler.config.softmax_temperature_annealing and scheduler.config.mask_token_id == 16
    (tmp_path / "generator.bin").touch()
    named = MaskGitScheduler.from_pretrained(tmp_path / "generator.bin", original_variant="s128")
    assert named.config == MaskGitScheduler.from_variant("s128").config


def test_a_pipeline_of_originals_generates(folders):
    pipe = TiTokPipeline.from_original(*folders)
    assert pipe.scheduler.config.guidance_scale == 5.5
    generator = torch.Generator().manual_seed(0)
    output = pipe(["golden retriever", 207], num_inference_steps=2, generator=generator)
    assert [image.size for image in output.images] == [(32, 32)] * 2
    assert pipe.image_processor.size == {"shortest_edge": 32}


def test_a_pipeline_of_an_original_tokenizer_alone_reconstructs(folders):
    pipe = TiTokPipeline.from_original(folders[0], dtype=torch.float32)
    assert pipe.transformer is None
    assert pipe.reconstruct(torch.rand(1, 3, 32, 32), output_type="pt").shape == (1, 3, 32, 32)


def test_a_bare_file_needs_the_name_of_its_variant(stage_1):
    model = TiTokModel.from_pretrained(stage_1, original_variant="s128_stage1")
    assert model.pixel_decoder is None and model.config.num_latent_tokens == 128
    with pytest.raises(ValueError, match="does not tell its architecture.*l32, b64, s128"):
        TiTokModel.from_pretrained(stage_1)
    with pytest.raises(ValueError, match="original_variant is 'xl'. Released for TiTokModel: l32"):
        TiTokModel.from_pretrained(stage_1, original_variant="xl")
    with pytest.raises(ValueError, match="Released for MaskGitTransformer1DModel: l32, b64, s128.$"):
        MaskGitTransformer1DModel.from_pretrained(stage_1, original_variant="bl64_vq8k")


def test_the_wrong_variant_is_one_error(stage_1):
    with pytest.raises(CheckpointMismatchError, match=r"tokenizer.bin does not fit.*[0-9]+ missing \(.*, \.\.\.\)"):
        TiTokModel.from_pretrained(stage_1, original_variant="s128")


def test_a_generator_in_place_of_a_tokenizer_is_one_error(folders):
    with pytest.raises(CheckpointMismatchError, match="missing.*unexpected"):
        TiTokModel.from_pretrained(folders[1])
    with pytest.raises(ValueError, match="has no model.generator"):
        MaskGitTransformer1DModel.from_pretrained(folders[0])


def test_a_missing_tensor_is_never_filled_with_random_numbers(folders, tmp_path):
    tensors = load_file(folders[0] / "model.safetensors")
    del tensors["decoder.mask_token"]
    (tmp_path / "config.json").write_text((folders[0] / "config.json").read_text())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"1 missing \(decoder.mask_token\)"):
        TiTokModel.from_pretrained(tmp_path)


def test_the_maskgit_vqgan_loads_from_its_bare_file(tmp_path):
    path = write_checkpoint("maskgit_vqgan", tmp_path, hollow_tensors("maskgit_vqgan"))
    model = MaskGitVQGANModel.from_pretrained(path)
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest("maskgit_vqgan")["num_parameters"]
    also = MaskGitVQGANModel.from_pretrained(tmp_path, original_variant="imagenet256")
    assert torch.equal(also.quantizer.codebook.weight, model.quantizer.codebook.weight)


def test_a_hub_repository_of_the_original_loads(folders, tmp_path):
    code = """
import sys
from titok_hf import MaskGitScheduler, MaskGitTransformer1DModel
model = MaskGitTransformer1DModel.from_pretrained("yucornetto/generator")
scheduler = MaskGitScheduler.from_pretrained("yucornetto/generator")
print(model.config.codebook_size, scheduler.config.guidance_scale)
"""
    with hub_server(folders[1], "yucornetto/generator") as (address, fetched):
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        process = subprocess.run(
            [sys.executable, "-c", code], env=environment | {"HF_HUB_DISABLE_XET": "1"}, capture_output=True, text=True
        )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["16", "5.5"]
    assert sorted(set(fetched)) == ["config.json", "model.safetensors"]
