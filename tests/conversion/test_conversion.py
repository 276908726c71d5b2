"""Conversions: whole folders, verified, or nothing at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from golden_checkpoints import hollow_tensors, manifest, write_checkpoint
from hub_server import hub_server
from original_pipeline import write_generator, write_tokenizer
from titok_hf import (
    MaskGitScheduler,
    MaskGitTransformer1DModel,
    MaskGitVQGANModel,
    TiTokImageProcessorPil,
    TiTokModel,
    TiTokPipeline,
)
from titok_hf.original import StateDictAdapter, generator_adapter
from titok_hf.original.conversion import (
    convert_all_tokenizers,
    convert_generator,
    convert_tokenizer,
    convert_vqgan,
    export_to_original,
)
from titok_hf.original.model_card import write_card
from titok_hf.original.released import RELEASED_GENERATORS, RELEASED_TOKENIZERS
from titok_hf.original.verification import Verification, VerificationError, verify_outputs, verify_tensors

CHECKS = "names, shapes and dtypes agree; each tensor comes back bit for bit; both formats compute the same to the bit"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A tokenizer and its generator in the original's format."""
    folder = tmp_path_factory.mktemp("original")
    return write_tokenizer(folder / "tokenizer"), write_generator(folder / "generator")


@pytest.fixture(scope="module")
def converted(originals, tmp_path_factory):
    """Both converted together: a pipeline, and what the conversion reported."""
    folder = tmp_path_factory.mktemp("converted") / "pipeline"
    return folder, convert_generator(originals[1], folder, originals[0])


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_generator_with_its_tokenizer_becomes_a_pipeline(originals, converted):
    folder, verifications = converted
    assert names_in(folder) == {
        "README.md",
        "image_processor/preprocessor_config.json",
        "image_processor/titok.py",
        "image_processor/titok_hf.image_processing_pil_titok.py",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "scheduler/titok_hf.scheduling_maskgit.py",
        "titok.py",
        "tokenizer/config.json",
        "tokenizer/model.safetensors",
        "tokenizer/preprocessor_config.json",
        "tokenizer/titok.py",
        "tokenizer/titok_hf.modeling_titok.py",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer/titok_hf.modeling_maskgit.py",
    }
    assert [verification.num_tensors for verification in verifications] == [
        len(load_file(original / "model.safetensors")) for original in reversed(originals)
    ]
    assert all(str(verification).endswith(f"float32: {CHECKS}") for verification in verifications)

    ours, theirs = TiTokPipeline.from_pretrained(folder), TiTokPipeline.from_original(*originals)
    assert ours.scheduler.config.guidance_schedule == "linear" and ours.scheduler.config.softmax_temperature_annealing
    settings = ("num_inference_steps", "temperature", "guidance_scale", "guidance_power", "mask_token_id")
    assert all(ours.scheduler.config[name] == theirs.scheduler.config[name] for name in settings)
    assert len(ours.id2label) == 1000 and ours.id2label == theirs.id2label
    one, other = (
        pipe("golden retriever", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt")
        for pipe in (ours, theirs)
    )
    assert torch.equal(one.codes, other.codes) and torch.equal(one.images, other.images)


def test_no_path_of_this_machine_is_written(converted):
    folder, _ = converted
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert str(folder.parents[1]) not in path.read_text(), path


def test_a_generator_alone_carries_its_sampler(originals, tmp_path):
    convert_generator(originals[1], tmp_path / "generator")
    model = MaskGitTransformer1DModel.from_pretrained(tmp_path / "generator")
    assert same_state(model.state_dict(), MaskGitTransformer1DModel.from_pretrained(originals[1]).state_dict())
    assert MaskGitScheduler.from_pretrained(tmp_path / "generator").config.temperature == 9.5
    assert "no published numbers are known" in (tmp_path / "generator" / "README.md").read_text()


def test_a_pipeline_is_exported_and_read_again(converted, originals, tmp_path):
    verifications = export_to_original(converted[0], tmp_path / "exported")
    assert [str(verification).endswith(CHECKS) for verification in verifications] == [True, True]
    for part, original in zip(("tokenizer", "generator"), originals, strict=True):
        exported = tmp_path / "exported" / part
        assert same_state(load_file(exported / "model.safetensors"), load_file(original / "model.safetensors"))
        config = json.loads((exported / "config.json").read_text())
        assert config["model"]["generator"]["guidance_decay"] == "linear"
        assert config["model"]["vq_model"]["vit_enc_model_size"] == "small"
        assert config["dataset"]["preprocessing"]["crop_size"] == 32


def test_a_tokenizer_is_converted_and_exported(originals, tmp_path):
    verification = convert_tokenizer(originals[0], tmp_path / "ours")
    assert str(verification).endswith(CHECKS)
    assert names_in(tmp_path / "ours") == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "titok.py",
    }
    assert TiTokImageProcessorPil.from_pretrained(tmp_path / "ours").size == {"shortest_edge": 32}
    (exported,) = export_to_original(tmp_path / "ours", tmp_path / "back", form="bin")
    assert exported.num_parameters == verification.num_parameters
    tensors = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert same_state(tensors, load_file(originals[0] / "model.safetensors"))
    assert TiTokModel.from_pretrained(tmp_path / "back").config.num_latent_tokens == 4


@pytest.mark.slow
def test_the_maskgit_vqgan_is_converted_from_both_of_its_files(tmp_path):
    file = write_checkpoint("maskgit_vqgan", tmp_path, hollow_tensors("maskgit_vqgan"))
    verification = convert_vqgan(file, tmp_path / "ours")
    assert verification.num_parameters == manifest("maskgit_vqgan")["num_parameters"]
    export_to_original(tmp_path / "ours", tmp_path / "flax", form="flax")
    convert_vqgan(tmp_path / "flax" / "checkpoint.msgpack", tmp_path / "again")
    models = [MaskGitVQGANModel.from_pretrained(tmp_path / name) for name in ("ours", "again")]
    assert same_state(models[0].state_dict(), models[1].state_dict())
    assert (
        "| 2.28 | published in arXiv 2202.04200; not measured here |" in (tmp_path / "ours" / "README.md").read_text()
    )


def test_published_numbers_are_called_published(converted, tmp_path):
    shutil.copytree(converted[0], tmp_path, dirs_exist_ok=True)
    write_card(
        tmp_path,
        destination="titok-s128",
        repo_id="user/titok-s128",
        variant="s128",
        source="somewhere",
        verifications=[Verification(1, 2, ("float32",), ("checked",))],
        tokenizer=RELEASED_TOKENIZERS["s128"],
        generator=RELEASED_GENERATORS["s128"],
    )
    card = (tmp_path / "README.md").read_text()
    for value in ("1.71", "1.97", "281.8"):
        assert f"| {value} | published in arXiv 2406.07550; not measured here |" in card
    assert "1 tensors, 2 parameters, float32: checked" in card
    assert 'TiTokPipeline.from_pretrained("user/titok-s128")' in card
    assert ModelCard(card).data.library_name == "titok-hf"


def test_all_tokenizers_start_with_the_first_and_leave_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="tokenizer_titok_l32.bin"):
        convert_all_tokenizers(tmp_path / "converted", tmp_path)
    assert not any((tmp_path / "converted").iterdir())


def damaged(originals, folder: Path, change) -> Path:
    """A copy of the generator with something wrong in its weights."""
    tensors = load_file(originals[1] / "model.safetensors")
    change(tensors)
    folder.mkdir()
    (folder / "config.json").write_text((originals[1] / "config.json").read_text())
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.lm_head.bias"), r"1 missing \(model.lm_head.bias\)"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda tensors: tensors["model.lm_head.bias"].fill_(float("nan")), "not finite"),
    ],
)
def test_a_bad_checkpoint_writes_nothing(originals, tmp_path, change, message):
    source = damaged(originals, tmp_path / "source", change)
    with pytest.raises((OSError, ValueError), match=message):
        convert_generator(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_no_original_is_one_clear_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for source in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match="is no original checkpoint"):
            convert_tokenizer(source, tmp_path / "out")
    with pytest.raises(OSError, match="has no config.json"):
        export_to_original(tmp_path.parent, tmp_path / "out")
    with pytest.raises(ValueError, match="is of a bert"):
        export_to_original(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="form is 'onnx'. Use one of safetensors, bin, flax"):
        export_to_original(tmp_path, tmp_path / "out", form="onnx")
    assert not (tmp_path / "out").exists()


def test_the_flax_form_is_for_the_maskgit_vqgan_alone(converted, tmp_path):
    with pytest.raises(ValueError, match="Only the MaskGIT-VQGAN has a Flax form"):
        export_to_original(converted[0], tmp_path / "out", form="flax")
    assert not (tmp_path / "out").exists()


def tiny_adapter() -> tuple[StateDictAdapter, dict[str, torch.Tensor]]:
    model = MaskGitTransformer1DModel(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    adapter = generator_adapter(model.config, model.state_dict())
    return adapter, model.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors["lm_head.bias"][0].copysign_(torch.tensor(-1.0)),
            "lm_head.bias differs after its conversion",
        ),
        (
            lambda tensors: tensors.update({"lm_head.bias": tensors["lm_head.bias"].double()}),
            "differs after its conversion",
        ),
        (lambda tensors: tensors.pop("lm_head.bias"), "1 tensors were not written, model.lm_head.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra was written"),
    ],
)
def test_verification_finds_any_difference(tmp_path, change, message):
    adapter, ours = tiny_adapter()
    original = {name: tensor.clone() for name, tensor in adapter.to_original(ours).items()}
    save_file(ours, tmp_path / "model.safetensors")
    assert verify_tensors(adapter, original, tmp_path).num_tensors == len(original)
    changed = {name: tensor.clone() for name, tensor in ours.items()}
    change(changed)
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(VerificationError, match=message):
        verify_tensors(adapter, original, tmp_path)


def test_verification_compares_what_the_networks_compute():
    outputs = [torch.zeros(2), torch.ones(3)]
    verify_outputs(outputs, [output.clone() for output in outputs])
    with pytest.raises(VerificationError, match="computes something else"):
        verify_outputs(outputs, [torch.zeros(2), torch.tensor([1.0, 1.0, 1.0 + 1e-7])])
    with pytest.raises(VerificationError, match="computes something else"):
        verify_outputs(outputs, outputs[:1])


CONVERT = """
import resource, sys
from titok_hf.original.conversion import convert_tokenizer
source, output, variant = sys.argv[1:]
convert_tokenizer(source, output, variant or None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def start_conversion(source: Path, output: Path, variant: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", CONVERT, str(source), str(output), variant]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_folder_that_looks_complete(originals, tmp_path):
    process = start_conversion(originals[0], tmp_path / "out")
    while process.poll() is None and not list(tmp_path.glob(".unfinished-*/model.safetensors")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed while it worked"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_largest_tokenizer_is_converted_within_6_gb(tmp_path):
    tensors = {name: tensor.contiguous() for name, tensor in hollow_tensors("tokenizer_l32").items()}
    torch.save(tensors, tmp_path / "tokenizer_titok_l32.bin")
    del tensors
    process = start_conversion(tmp_path / "tokenizer_titok_l32.bin", tmp_path / "out", "l32")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    peak = int(output.split()[-1]) * 1024  # Linux counts kilobytes
    assert peak < 6e9
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{manifest('tokenizer_l32')['num_parameters']:,} parameters" in card
    assert "| 2.21 | published in arXiv 2406.07550; not measured here |" in card


def test_a_converted_folder_is_pushed_as_it_is(originals, tmp_path):
    code = (
        "import sys; from titok_hf.original.conversion import convert_generator; "
        "convert_generator(sys.argv[1], sys.argv[2], push_to_hub='someone/titok')"
    )
    (tmp_path / "hub").mkdir()
    with hub_server(tmp_path / "hub", "someone/titok") as (address, _):
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
        process = subprocess.run(
            [sys.executable, "-c", code, str(originals[1]), str(tmp_path / "converted")],
            env=environment | {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
    assert process.returncode == 0, process.stderr
    assert names_in(tmp_path / "hub") == names_in(tmp_path / "converted")
    for name in names_in(tmp_path / "hub"):
        assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes(), name
