"""Exports: they compute what PyTorch computes, describe themselves, and are written whole or not at all."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from plain_engine import PLAIN
from tiny_pipeline import TINY_VQGAN, generators, tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf.bundled import bundled_checkpoint, example_images
from titok_hf.exported import engines, export
from titok_hf.exported.engines import ENGINES
from titok_hf.exported.export import export_pipeline
from titok_hf.exported.pipeline_exported import ExportedTiTokPipeline
from titok_hf.exported.programs import EncoderProgram, GeneratorProgram
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler

pytest.importorskip("transformers.exporters.runners", reason="exporting needs transformers 5.23")
KINDS = {
    "kl": {"quantizer": "kl"},
    "proxy codes": {"decoder_head": "proxy_codes", "proxy_codebook_size": 20, "legacy_latent_layout": True},
    "two-stage": {"decoder_head": "proxy_codes", "proxy_codebook_size": 20, "pixel_decoder": TINY_VQGAN},
}


@pytest.fixture(scope="module", autouse=True)
def plain_engine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "plain", PLAIN)
        yield


@pytest.fixture(scope="module")
def pipe() -> TiTokPipeline:
    return tiny_pipeline()


def tiny_of_kind(kind: str) -> TiTokPipeline:
    return TiTokPipeline(tiny_tokenizer(**KINDS[kind]), tiny_image_processor())


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """An export of the tiny pipeline; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("exports") / "exported"
    export_pipeline(pipe, folder, "plain", model="tiny")
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def files_in(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def bundled(request, tmp_path_factory):
    """The bundled pipeline, the folder of its export, and the losses."""
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    folder = tmp_path_factory.mktemp(request.param)
    return pipe, folder, export_pipeline(pipe, folder, request.param)[0]


def test_the_bundled_model_gives_the_codes_of_pytorch(bundled):
    pipe, folder, losses = bundled
    assert losses["images"] == 20 and losses["codes_that_differ"] == losses["best_codes_that_differ"] == 0
    assert losses["decoded_psnr"] > 80 and losses["psnr"] == pytest.approx(losses["psnr_of_pytorch"], abs=1e-3)
    exported = ExportedTiTokPipeline.from_pretrained(folder)
    for each in (pipe, exported):
        each.set_progress_bar_config(disable=True)
    made, expected = (
        each([0, "Sneaker", 9], generator=generators(0, 1, 2), output_type="pt") for each in (exported, pipe)
    )
    assert torch.equal(made.codes, expected.codes)
    torch.testing.assert_close(made.images, expected.images, atol=1e-4, rtol=0)
    mask = torch.arange(32) < 8
    edits = {"init_codes": made.codes[:1], "mask": mask[None], "generator": torch.Generator().manual_seed(3)}
    assert torch.equal(exported(5, **edits).codes[:, ~mask], made.codes[:1, ~mask])
    assert torch.equal(exported.encode(example_images(), batch_size=7), pipe.encode(example_images()))
    held = [value for value in vars(exported).values() if isinstance(value, torch.nn.Module)]
    assert held == [] and not isinstance(exported.tokenizer, torch.nn.Module)


@pytest.mark.parametrize(("kind", "engine"), [("kl", "onnx"), ("proxy codes", "plain"), ("two-stage", "onnx")])
def test_every_kind_of_tokenizer_is_exported(kind, engine, tmp_path):
    pipe = tiny_of_kind(kind)
    (losses,) = export_pipeline(pipe, tmp_path, engine)  # which checks that the programs agree with PyTorch
    assert losses.keys() >= {
        "tokens_difference" if kind == "kl" else "codes_that_differ",
        "proxy_logits_difference" if kind == "proxy codes" else "pixels_difference",
    }
    exported = ExportedTiTokPipeline.from_pretrained(tmp_path)
    assert exported.transformer is None
    images = torch.rand(3, 3, 32, 32)
    tokens, expected = exported.encode(images), pipe.encode(images)
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)
    if kind == "kl":
        sampled, wanted = (each.encode(images, generator=generators(1, 2, 3)) for each in (exported, pipe))
        torch.testing.assert_close(sampled, wanted, atol=1e-4, rtol=1e-4)
        assert not torch.equal(sampled, tokens)
    if kind == "proxy codes":
        with pytest.raises(ValueError, match="stage-1 tokenizer"):
            exported.decode(tokens)


@pytest.mark.slow
def test_int8_loses_little(tmp_path):
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    (losses,) = export_pipeline(pipe, tmp_path, "onnx", ["int8"])
    assert losses["codes_that_differ"] < 0.2 and losses["best_codes_that_differ"] < 0.1
    assert losses["psnr"] > losses["psnr_of_pytorch"] - 0.5
    assert 0 < losses["logits_difference"] and 30 < losses["decoded_psnr"] < 90  # float32 has more


def program_on_onnx(program, precision, tmp_path):
    """The runner of one program, and its inputs and outputs as the file states them."""
    engine = ENGINES["onnx"]
    component = engine.export(program.eval(), precision)
    (path,) = engine.save(component, tmp_path / "program.onnx")
    runner = engine.open(path, component.metadata, None)
    values = [*runner.session.get_inputs(), *runner.session.get_outputs()]
    return runner, {value.name: (value.type, value.shape[1:]) for value in values}


def test_in_16_bits_inputs_and_outputs_stay_float32(tmp_path):
    program = EncoderProgram(tiny_tokenizer().half(), float_inputs=True)
    runner, values = program_on_onnx(program, "fp16", tmp_path)
    assert values["pixel_values"] == ("tensor(float)", [3, 32, 32])
    assert values["codes"] == ("tensor(int64)", [8]) and values["latents"] == ("tensor(float)", [8, 4])
    assert runner(pixel_values=torch.rand(3, 3, 32, 32))["codes"].shape == (3, 8)


@torch.no_grad()
def test_the_uvit_generator_is_exported(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    fields = {"codebook_size": 16, "num_latent_tokens": 8, "num_classes": 3} | sizes
    transformer = MaskGitTransformer1DModel(architecture="uvit", **fields).eval()
    runner, _ = program_on_onnx(GeneratorProgram(transformer), "fp32", tmp_path)
    inputs = {"input_ids": torch.randint(17, (5, 8)), "class_labels": torch.arange(5) % 4}
    torch.testing.assert_close(runner(**inputs)["logits"], transformer(**inputs).logits, atol=1e-5, rtol=1e-4)


def test_an_export_describes_itself(pipe, folder):
    described = json.loads((folder / "titok_export.json").read_text("utf-8"))
    expected = {"image_size": 32, "num_latent_tokens": 8, "codebook_size": 16, "mask_token_id": 16, "num_classes": 3}
    assert described.items() >= ({"model": "tiny", "null_class_label": 3} | expected).items()
    assert described["id2label"]["2"] == "cardigan"
    steps = described["default_steps"]
    assert steps["mask_ratios"] == pipe.scheduler.mask_ratios and len(steps["temperatures"]) == 4
    assert described["scheduler"]["guidance_schedule"] == "linear"
    assert "_name_or_path" not in json.dumps(described)  # the paths of this machine are its own
    (export,) = described["exports"]
    assert {name for program in export["programs"].values() for name in program["files"]} == {
        f"plain/{name}_model.pt2" for name in ("encoder", "decoder", "generator")
    }


def test_an_export_runs_in_a_fresh_process(bundled):
    pipe, folder, _ = bundled
    program = (
        "import sys, torch, titok_hf\n"
        "pipe = titok_hf.ExportedTiTokPipeline.from_pretrained(sys.argv[1])\n"
        "print(pipe([0, 1], generator=torch.Generator().manual_seed(0), output_type='latent').codes.tolist())"
    )
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    expected = pipe([0, 1], generator=torch.Generator().manual_seed(0), output_type="latent").codes
    assert json.loads(run.stdout) == expected.tolist()


def test_precisions_of_one_model_share_a_folder_and_another_model_replaces_them(pipe, copied):
    (copied / "README.md").write_text("mine")
    export_pipeline(pipe, copied, "plain", ["bf16"])
    for precision in ("fp32", "bf16"):
        ExportedTiTokPipeline.from_pretrained(copied, precision=precision).reconstruct(torch.rand(1, 3, 32, 32))
    other = TiTokPipeline(tiny_tokenizer(seed=1), tiny_image_processor())
    export_pipeline(other, copied, "plain")
    assert sorted(files_in(copied)) == [
        "README.md",
        "plain/decoder_model.pt2",
        "plain/encoder_model.pt2",
        "titok_export.json",
    ]


def test_a_wrong_program_is_noticed_and_nothing_changes(copied, monkeypatch, tmp_path):
    before = files_in(copied)
    forward = export.DecoderProgram.forward
    monkeypatch.setattr(
        export.DecoderProgram,
        "forward",
        lambda self, **tokens: {name: 1.01 * value for name, value in forward(self, **tokens).items()},
    )
    with pytest.raises(ValueError, match=r"pixels_difference is 0\.\d+, and at most 0.001 is expected"):
        export_pipeline(tiny_pipeline(seed=1), copied, "plain")
    assert files_in(copied) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied"]


def test_the_pipeline_that_is_exported_stays_as_it_is(folder, tmp_path):
    pipe = tiny_pipeline()
    pipe.transformer.train()
    before = {name: value.clone() for name, value in pipe.tokenizer.state_dict().items()}
    export_pipeline(pipe, tmp_path, "plain", ["bf16"])
    assert pipe.transformer.training and all(parameter.requires_grad for parameter in pipe.tokenizer.parameters())
    assert pipe.tokenizer.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in pipe.tokenizer.state_dict().items())


def test_a_folder_that_is_no_export_is_named(tmp_path):
    with pytest.raises(OSError, match="is not an exported model: it has no titok_export.json"):
        ExportedTiTokPipeline.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="does not exist"):
        ExportedTiTokPipeline.from_pretrained(tmp_path / "none")


def test_an_export_is_no_model_of_pytorch(folder, pipe, tmp_path):
    with pytest.raises(OSError, match="is an exported model.*ExportedTiTokPipeline"):
        TiTokPipeline.from_pretrained(folder)
    exported = ExportedTiTokPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="is an export already"):
        export_pipeline(exported, tmp_path)
    with pytest.raises(NotImplementedError, match="Copy the folder"):
        exported.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be moved or converted"):
        exported.to(torch.float16)
    with pytest.raises(ValueError, match="begins with float32"):
        export_pipeline(tiny_pipeline().to(torch.bfloat16), tmp_path)


def test_files_that_are_missing_damaged_or_of_another_model_are_named(copied, tmp_path):
    decoder = copied / "plain" / "decoder_model.pt2"
    content = decoder.read_bytes()
    decoder.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    exported = ExportedTiTokPipeline.from_pretrained(copied)
    with pytest.raises(OSError, match="decoder_model.pt2 is not the file that the export wrote.*of another model"):
        exported.decode(np.zeros((1, 8), int))
    decoder.write_bytes(content + b"0")
    with pytest.raises(OSError, match=r"decoder_model.pt2 has \d+ bytes, and the export wrote \d+"):
        ExportedTiTokPipeline.from_pretrained(copied)
    decoder.unlink()
    with pytest.raises(OSError, match="decoder_model.pt2 is missing"):
        ExportedTiTokPipeline.from_pretrained(copied)
    description = copied / "titok_export.json"
    described = json.loads(description.read_text("utf-8"))
    description.write_text(json.dumps(described | {"format_version": 9}), "utf-8")
    with pytest.raises(OSError, match="format version 9"):
        ExportedTiTokPipeline.from_pretrained(copied)
    description.write_text("{}", "utf-8")
    with pytest.raises(OSError, match="titok_export.json"):
        ExportedTiTokPipeline.from_pretrained(copied)


def test_engines_and_precisions_that_are_not_there_are_named(folder, pipe, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'tensorrt' is not an engine. Use one of onnx, openvino, executorch"):
        ExportedTiTokPipeline.from_pretrained(folder, "tensorrt")
    with pytest.raises(ValueError, match="no export for onnx int8; it has plain fp32.*--precision int8"):
        ExportedTiTokPipeline.from_pretrained(folder, "onnx", "int8")
    with pytest.raises(ValueError, match="'bf16' is not a precision that ONNX Runtime is exported in"):
        export_pipeline(pipe, tmp_path, "onnx", ["bf16"])
    real = engines.find_spec
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name.startswith("onnx") else real(name))
    with pytest.raises(ImportError, match=r'onnxruntime, onnx-ir, which are not installed.*"titok-hf\[onnx\]"'):
        ENGINES["onnx"].check_installed()
    with pytest.raises(ImportError, match="onnxscript"):
        export_pipeline(pipe, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_codes_and_shapes_are_checked_as_by_pytorch(folder):
    exported = ExportedTiTokPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"span \[0, 16\], but this model's codes lie in \[0, 16\)"):
        exported.decode(torch.tensor([[0, 1, 2, 3, 4, 5, 6, 16]]))
    with pytest.raises(ValueError, match="exported with codes as its input"):
        exported.tokenizer.decode(latents=torch.zeros(1, 8, 4))
    with pytest.raises(ValueError, match="input_ids has 17"):
        exported.transformer(torch.full((1, 8), 17), class_labels=torch.tensor([0]))
    with pytest.raises(ValueError, match="float32|dtype"):
        exported.tokenizer.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.xfail(reason="ExecuTorch 1.5.1 does not load or run these programs with a dynamic batch")
@pytest.mark.parametrize("kind", ["pipeline", "kl", "two-stage"])
def test_executorch(kind, tmp_path):
    pytest.importorskip("executorch", reason="the extra executorch is not installed")
    pipe = tiny_pipeline() if kind == "pipeline" else tiny_of_kind(kind)
    export_pipeline(pipe, tmp_path, "executorch")
    exported = ExportedTiTokPipeline.from_pretrained(tmp_path)
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(exported.encode(images), pipe.encode(images), atol=1e-4, rtol=1e-4)


def test_an_engine_that_is_missing_names_its_extra(pipe, tmp_path):
    missing = [engine for engine in ENGINES.values() if engines.find_spec(engine.modules[0]) is None]
    for engine in missing:
        with pytest.raises(ImportError, match=rf"titok-hf\[{engine.name}\]"):
            export_pipeline(pipe, tmp_path, engine.name)


def test_the_scheduler_of_an_export_is_that_of_the_pipeline(pipe, folder):
    exported = ExportedTiTokPipeline.from_pretrained(folder)
    assert isinstance(exported.scheduler, MaskGitScheduler)
    ours, expected = (
        {name: value for name, value in each.scheduler.config.items() if name[0] != "_"} for each in (exported, pipe)
    )
    assert ours == expected
    assert exported.id2label == pipe.id2label
