"""What `--model` may be: a pipeline, a tokenizer of ours or of the original; and what is said of anything else."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from commands import run, succeed
from original_pipeline import write_generator, write_tokenizer
from tiny_pipeline import tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANConfig, MaskGitVQGANModel


def refused(message, *arguments):
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tokenizers as their commands leave them: of training, converted, original."""
    folder = tmp_path_factory.mktemp("models")
    for quantizer in ("vq", "kl"):
        tiny_tokenizer(quantizer=quantizer).save_pretrained(folder / quantizer)
        tiny_image_processor().save_pretrained(folder / quantizer)
    tiny_tokenizer().save_pretrained(folder / "without-processor")
    succeed("convert", "tokenizer", write_tokenizer(folder / "original"), "-o", folder / "converted")
    return folder


@pytest.mark.parametrize("name", ["vq", "kl", "without-processor", "original", "converted"])
def test_a_tokenizer_reconstructs_encodes_and_decodes(name, models, photo, tmp_path):
    place = ("-m", models / name)
    succeed("reconstruct", photo, "-o", tmp_path / "out", *place)
    shown = succeed("encode", photo, "-o", tmp_path / "codes", *place).stdout
    assert "to decode: titok-hf decode" in shown
    succeed("decode", tmp_path / "codes", "-o", tmp_path / "out", *place)
    decoded, reconstructed = (
        np.asarray(Image.open(tmp_path / "out" / f"photo-{what}.png")) for what in ("decoded", "reconstructed")
    )
    assert np.array_equal(decoded, reconstructed) and decoded.std() > 0
    assert json.loads(succeed("info", models / "kl", "--json").stdout)["kind"] == "tokenizer"


def test_latents_of_another_model_are_refused_though_they_fit(models, photo, tmp_path):
    tiny_tokenizer(seed=1, quantizer="kl").save_pretrained(tmp_path / "other")
    succeed("encode", photo, "-o", tmp_path / "latents", "-m", tmp_path / "other")
    refused("made by the model 'other'", "decode", tmp_path / "latents", "-o", tmp_path / "out", "-m", models / "kl")


def test_decode_advises_only_what_there_is(models, photo, tmp_path):
    succeed("encode", photo, "-o", tmp_path / "bundled")
    refused("leave --model out", "decode", tmp_path / "bundled", "-m", models / "vq", "-o", tmp_path / "out")
    shutil.copytree(models / "vq", tmp_path / "moved")
    succeed("encode", photo, "-o", tmp_path / "codes", "-m", tmp_path / "moved")
    refused("Pass that model's folder or Hub id", "decode", tmp_path / "codes", "-o", tmp_path / "out")


def test_what_is_no_tokenizer_is_said_in_one_sentence(models, photo, tmp_path):
    def fails(message, model, *command):
        refused(message, *(command or ("reconstruct", photo)), "-o", tmp_path / "out", "-m", model)

    fails("is a tokenizer alone", models / "vq", "generate", "0")
    MaskGitVQGANModel(MaskGitVQGANConfig(base_channels=32, channel_multipliers=[1])).save_pretrained(
        tmp_path / "vqgan"
    )
    fails("is a MaskGIT-VQGAN", tmp_path / "vqgan")
    tiny_pipeline().transformer.save_pretrained(tmp_path / "generator")
    fails("is a generator without its tokenizer", tmp_path / "generator")
    fails("does not fit this model", write_generator(tmp_path / "original-generator"))
    run_folder = tmp_path / "run"
    shutil.copytree(models / "vq", run_folder / "model")
    fails(f"Its model is {run_folder / 'model'}", run_folder)
    fails("convert it: titok-hf convert tokenizer", models / "vq" / "model.safetensors")
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    fails("no TiTok model", tmp_path / "vit")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Did you mean", ("reconstruct", "{photo}", "-m", "{models}/convertd")),
        ("does not exist", ("info", "{models}/none/deeper")),
        ("does not exist", ("info", "no-such-model")),
        ("does not exist", ("convert", "tokenizer", "missing.bin", "-o", "{out}")),
        ("does not exist", ("convert", "generator", "a/b/c", "-o", "{out}")),
        ("does not exist", ("convert", "export", "./missing", "-o", "{out}")),
        ("does not exist", ("pretokenize", "{models}", "-o", "{out}", "-m", "runs/first/model")),
        ("does not exist", ("prepare", "images/of.tar", "-o", "{out}")),
        ("HF_HUB_OFFLINE is set", ("info", "user/none")),
        ("HF_HUB_OFFLINE is set", ("convert", "tokenizer", "user/none", "-o", "{out}")),
        ("HF_HUB_OFFLINE is set", ("reconstruct", "{photo}", "-m", "user/none")),
        ("HF_HUB_OFFLINE is set", ("pretokenize", "{models}", "-o", "{out}", "-m", "user/none")),
        ("--revision v1 is for models on the Hub", ("info", "{models}/vq", "--revision", "v1")),
        ("--revision v1 is for models on the Hub", ("info", "--revision", "v1")),
        ("--revision v1 is", ("pretokenize", "{models}", "-o", "{out}", "-m", "{models}/vq", "--revision", "v1")),
        ("--num-views is for random crops", ("pretokenize", "{models}", "-o", "{out}", "--num-views", "3")),
        ("--quality is for JPEG", ("prepare", "{models}", "-o", "{out}", "--format", "png", "--quality", "80")),
        ("--all converts every variant", ("convert", "tokenizer", "--all", "--variant", "l32", "-o", "{out}")),
        ("is no id of a Hub", ("prepare", "{models}", "-o", "{out}", "--push-to-hub", "a/b/c")),
        ("is no id of a Hub", ("pull", "a/b/c")),
        ("is no folder", ("info", "{photo}")),
        ("is no folder", ("info", "/dev/null")),
        ("is no folder", ("convert", "export", "{photo}", "-o", "{out}")),
        ("does not exist", ("push", "{models}/none", "user/none")),
        ("is a file", ("push", "{photo}", "user/none")),
        ("is no file of codes", ("decode", "{models}", "-o", "{out}")),
        ("neither a folder nor a file", ("prepare", "/dev/null", "-o", "{out}")),
    ],
)
def test_what_is_wrong_is_said_at_once(message, arguments, models, photo, tmp_path):
    """HF_HUB_OFFLINE is set in all tests; none of these may get as far as the network or the models."""
    places = {"photo": photo, "models": models, "out": tmp_path / "out"}
    refused(message, *(argument.format(**places) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_the_output_of_encode_names_no_path(models, photo, tmp_path):
    succeed("encode", photo, "-o", tmp_path / "codes", "-m", models / "vq")
    assert str(models).encode() not in (tmp_path / "codes").read_bytes()


def test_the_name_of_the_bundled_model_is_a_model_of_every_command(photo, tmp_path, monkeypatch):
    """Its card and its codes name it, and it is neither a path nor a Hub id."""
    monkeypatch.chdir(tmp_path)
    named = succeed("encode", photo, "-o", "named", "-m", "titok-fashion-32", "--json").stdout
    assert json.loads(named)["model"] == json.loads(succeed("encode", photo, "-o", "own", "--json").stdout)["model"]
    assert succeed("info", "titok-fashion-32", "--json").stdout == succeed("info", "--json").stdout
    refused("There is no network for the metrics", *"evaluate generation titok-fashion-32 --reference".split(), photo)
    refused("does not exist", "evaluate", "rate", "titok-fashion-32", "titok-fashion-64", tmp_path)


def test_a_folder_here_goes_before_the_bundled_model_of_its_name(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer().save_pretrained("titok-fashion-32")
    assert json.loads(succeed("info", "titok-fashion-32", "--json").stdout) != json.loads(
        succeed("info", "--json").stdout
    )
